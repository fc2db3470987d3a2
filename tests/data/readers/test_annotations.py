"""Small versions of public data sets: annotations exactly as published, and empty videos."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from vivit.data.datasets import VideoSet
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.labels import LabelSpace


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def named(videos: VideoSet, root: Path, head: str = "classes") -> dict[str, str | tuple[str, ...]]:
    """Paths relative to the root, and their class names; no path occurs twice."""
    found: dict[str, str | tuple[str, ...]] = {}
    for video in videos.videos:
        path = Path(str(video.source)).relative_to(root).as_posix()
        assert path not in found
        names = video.labels[head]
        found[path] = names if videos.labels.multi_label else names[0]
    return found


def error_of(data: Path, split: str = "train", videos: Path | None = None, labels: LabelSpace | None = None) -> str:
    with pytest.raises(UserError) as caught:
        open_data(data, videos).split(split, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TRAIN = [
    "label,youtube_id,time_start,time_end,split,is_cc",
    "testifying,---QUuC4vJs,84,94,train,0",
    '"air drumming",--nQbRBEz2s,104,114,train,0',
    '"massaging person\'s head",_dbcJuKJQNs,0,10,train,1',
]
VALIDATE = ["label,youtube_id,time_start,time_end,split", "air drumming,-3B32lodo2M,59.0,69.0,validate"]
TEST = ["youtube_id,time_start,time_end,split", "--6bJUbfpnQ,17,27,test"]


def kinetics(folder: Path, prefix: str = "") -> Path:
    write(folder / f"{prefix}train.csv", *TRAIN)
    write(folder / f"{prefix}validate.csv", *VALIDATE)
    write(folder / f"{prefix}test.csv", *TEST)
    return folder


@pytest.mark.parametrize(
    ("prefix", "annotations", "places"),
    [
        ("", "", ("train/testifying", "train/air drumming", "train/massaging person's head", "val/air drumming")),
        ("", "annotations", ("train", "train", "train", "val")),  # as CVDF gives them out
        ("kinetics_", "annotations", ("videos_train/testifying", "videos_train/air_drumming", "videos_train/x", "v")),
        ("kinetics-600_", "", ("all", "all", "all", "all")),
    ],
)
def test_kinetics(prefix: str, annotations: str, places: Sequence[str], tmp_path: Path) -> None:
    kinetics(tmp_path / annotations, prefix)
    names = ("---QUuC4vJs_000084_000094.mp4", "--nQbRBEz2s_000104_000114.mkv", "_dbcJuKJQNs.mp4")
    paths = [f"{place}/{name}" for place, name in zip(places, (*names, "-3B32lodo2M_000059_000069.mp4"), strict=True)]
    touch(tmp_path, *paths, "test/--6bJUbfpnQ_000017_000027.mp4", "train/other/--6bJUbfpnQ_000001_000027.mp4")
    train, val = open_data(tmp_path).split("train"), open_data(tmp_path).split("val")
    assert named(train, tmp_path) == dict(
        zip(paths[:3], ("testifying", "air drumming", "massaging person's head"), strict=True)
    )
    assert named(val, tmp_path) == {paths[3]: "air drumming"}
    assert train.labels.classes == {"classes": ("air drumming", "massaging person's head", "testifying")}
    assert train.missing == val.missing == 0
    assert val.description.startswith("the val split of Kinetics annotations ")
    assert val.description.endswith(f"validate.csv, videos in {tmp_path}")
    assert "test.csv" not in val.description  # it has no labels


def test_kinetics_with_missing_videos(tmp_path: Path) -> None:
    kinetics(tmp_path)
    touch(tmp_path, "train/---QUuC4vJs_000084_000094.mp4", "val/-3B32lodo2M_000059_000069.mp4")
    message = error_of(tmp_path)
    assert "only 1 of 3 videos are there; missing, for example: --nQbRBEz2s_000104_000114, _dbcJuKJQNs_00" in message
    assert f"videos in {tmp_path}" in message and "--videos" in message
    # Other splits can still be used.
    assert len(open_data(tmp_path).split("val").videos) == 1
    touch(tmp_path, "train/--nQbRBEz2s_000104_000114.mp4")
    train = open_data(tmp_path).split("train")
    assert (len(train.videos), train.missing) == (2, 1)
    assert train.description.endswith("; 1 of 3 videos are not there and left out")
    # The class of a missing video still has a number.
    assert len(train.labels.classes["classes"]) == 3
    assert open_data(tmp_path).missing == {"train": ("_dbcJuKJQNs_000000_000010",)}


def test_videos_of_kinetics_in_another_place(tmp_path: Path) -> None:
    kinetics(tmp_path / "lists")
    touch(tmp_path, "disk/-3B32lodo2M_000059_000069.mp4")
    assert "only 0 of 1 videos" in error_of(tmp_path / "lists/validate.csv", "val", tmp_path / "lists")
    for data in (tmp_path / "lists", tmp_path / "lists/validate.csv"):
        val = open_data(data, tmp_path / "disk").split("all", LabelSpace({"classes": ("testifying", "air drumming")}))
        assert named(val, tmp_path) == {"disk/-3B32lodo2M_000059_000069.mp4": "air drumming"}
        assert val.description.endswith(f"videos in {tmp_path / 'disk'}")
    # The videos of a folder with annotations only are beside it.
    assert len(open_data(tmp_path / "lists").split("val").videos) == 1


def test_copies_of_kinetics_videos(tmp_path: Path) -> None:
    kinetics(tmp_path)
    names = ("---QUuC4vJs_000084_000094.mp4", "--nQbRBEz2s_000104_000114.mp4", "_dbcJuKJQNs_000000_000010.mp4")
    touch(tmp_path, f"train/{names[0]}", f"val/{names[0]}", f"train/{names[1]}", f"train/{names[2]}")
    touch(tmp_path, f"replacement/replacement_for_corrupted_k400/{names[1]}", f"frames/{names[2][:-4]}/1.jpg")
    links = tmp_path / "train/testifying"
    links.mkdir()
    (links / names[0]).symlink_to(tmp_path / "train" / names[0])
    assert set(named(open_data(tmp_path).split("train"), tmp_path)) == {
        f"train/testifying/{names[0]}",
        f"replacement/replacement_for_corrupted_k400/{names[1]}",
        f"train/{names[2]}",
    }
    touch(tmp_path, f"small/train/{names[2]}")
    message = error_of(tmp_path)
    assert "there is another video of this name" in message and f"small/train/{names[2]}" in message


def test_kinetics_with_two_lists_of_a_split(tmp_path: Path) -> None:
    kinetics(tmp_path, "k400_")
    kinetics(tmp_path, "k600_")
    assert "k400_test.csv is of the same split" in error_of(tmp_path)


def test_damaged_kinetics(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", *TRAIN, "testifying,---QUuC4vJs,84,soon,train,0")
    assert "train.csv: line 5: time_start or time_end is not a number" in error_of(tmp_path)
    write(tmp_path / "train.csv", *TRAIN, "testifying,---QUu")
    assert "train.csv: line 5 has 2 of 6 cells" in error_of(tmp_path)


TEMPLATES = {
    "Holding something next to something": "1",
    "Approaching something with your camera": "0",
    "Putting something similar to other things that are already on the table": "2",
}


def something(folder: Path, prefix: str = "something-something-v2-", validation: str = "validation") -> Path:
    train = [
        {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
         "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]},
        {"id": 42326, "label": "putting spoon", "template":
         "Putting [something similar to other things that are already on the table]", "placeholders": ["spoon"]},
    ]  # fmt: skip
    val = [{"id": "74225", "template": "approaching [Something] with your camera"}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}labels.json").write_text(json.dumps(TEMPLATES))
    (folder / f"{prefix}train.json").write_text(json.dumps(train, indent=1))
    (folder / f"{prefix}{validation}.json").write_text(json.dumps(val))
    (folder / f"{prefix}test.json").write_text('[{"id": "1420"}]')
    return folder


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_something_something(prefix: str, tmp_path: Path) -> None:
    something(tmp_path / "labels", prefix)
    write(tmp_path / "labels" / f"{prefix}test-answers.csv", "1420;Holding something next to something")
    touch(tmp_path, *(f"20bn-something-something-v2/{name}.webm" for name in (78687, 42326, 74225, 1420)))
    videos = "20bn-something-something-v2"
    train = open_data(tmp_path).split("train")
    assert named(train, tmp_path) == {
        f"{videos}/78687.webm": "Holding something next to something",
        f"{videos}/42326.webm": "Putting something similar to other things that are already on the table",
    }
    names = train.labels.classes["classes"]
    assert [names.index(video.labels["classes"][0]) for video in train.videos] == [1, 2]  # the official numbers
    assert names[0] == "Approaching something with your camera"
    val, test = open_data(tmp_path).split("val"), open_data(tmp_path).split("test")
    assert named(val, tmp_path) == {f"{videos}/74225.webm": "Approaching something with your camera"}
    assert named(test, tmp_path) == {f"{videos}/1420.webm": "Holding something next to something"}
    assert "Something-Something v2 annotations" in train.description


def test_damaged_something_something(tmp_path: Path) -> None:
    something(tmp_path)
    (tmp_path / "something-something-v2-labels.json").write_text('{"Holding something": "0"}')
    assert "train.json: entry 1: the template 'Holding [something] next to" in error_of(tmp_path)
    (tmp_path / "something-something-v2-labels.json").unlink()
    assert "labels.json must be beside it" in error_of(tmp_path)


def test_moments_in_time(tmp_path: Path) -> None:
    write(tmp_path / "moments_categories.txt", "clapping,1", "adult+male+singing,0", end="\r\n")
    rows = ["adult+male+singing/yt-5of6ffo6-Bw_205.mp4,adult+male+singing,3,1", "clapping/a.b_4.mp4,clapping,4,0"]
    write(tmp_path / "trainingSet.csv", *rows)
    write(tmp_path / "validationSet.csv", "clapping/yt-5of6ffo6-Bw_205.mp4,clapping,3,0")
    training = ["training/adult+male+singing/yt-5of6ffo6-Bw_205.mp4", "training/clapping/a.b_4.mp4"]
    validation = "validation/clapping/yt-5of6ffo6-Bw_205.mp4"
    touch(tmp_path, *training, validation, "training/clapping/yt-unlisted_1.mp4")
    train = open_data(tmp_path).split("train")
    assert named(train, tmp_path) == {training[0]: "adult+male+singing", training[1]: "clapping"}
    assert train.labels.classes == {"classes": ("adult+male+singing", "clapping")}  # as they are numbered
    assert named(open_data(tmp_path).split("val"), tmp_path) == {validation: "clapping"}
    # Another class has a video of the same name, which is not used.
    (tmp_path / training[0]).unlink()
    assert open_data(tmp_path).split("train").missing == 1


EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)


def epic(folder: Path) -> Path:
    write(
        folder / "EPIC_100_train.csv",
        EPIC,
        "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,1,door,2,['door'],[2]",
        "P01_01_1,P01,P01_01,00:59:59.1,01:00:04.37,01:00:06.17,1,2,\"put pan, down\",put-down,0,pan,0,"
        "\"['pan', 'hob']\",\"[0, 1]\"",
        "P02_103_7,P02,P02_103,00:00:02.629,00:00:04.37,00:00:06.17,262,370,put cup,put,0,cup,1,['cup'],[1]",
    )  # fmt: skip
    write(
        folder / "EPIC_100_validation.csv",
        EPIC,
        "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take pan,take,2,pan,0,['pan'],[0]",
    )
    write(folder / "EPIC_100_test_timestamps.csv", EPIC[:100], "P01_101_0,P01,P01_101,0,0,0,0,0")
    write(
        folder / "EPIC_100_verb_classes.csv",
        "id,key,instances,category",
        "0,put,\"['put', 'put-down']\",leave",
        "1,open,['open'],access",
        "2,take,['take'],retrieve",
    )
    nouns = ['"id","key","instances","category"', '0,"pan","[\'pan\']","cookware"', "1,cup,['cup'],x", "2,door,[],x"]
    write(folder / "EPIC_100_noun_classes.csv", *nouns)
    return folder


@pytest.mark.parametrize("places", [("P01/videos", "P02/videos", "P01/videos"), ("", "", "")])
@pytest.mark.parametrize("annotations", ["", "epic-kitchens-100-annotations"])
def test_epic_kitchens(places: Sequence[str], annotations: str, tmp_path: Path) -> None:
    epic(tmp_path / annotations)
    names = ("P01_01.MP4", "P02_103.MP4", "P01_11.MP4")
    paths = [str(tmp_path / place / name) for place, name in zip(places, names, strict=True)]
    touch(tmp_path, *paths, "P01/rgb_frames/P01_01/frame_0000000001.jpg")
    train = open_data(tmp_path).split("train")
    assert train.labels.classes == {"verb": ("put", "open", "take"), "noun": ("pan", "cup", "door")}
    assert [(str(video.source), video.labels, video.span) for video in train.videos] == [
        (paths[0], {"verb": ("open",), "noun": ("door",)}, (0.14, 3.37)),
        (paths[0], {"verb": ("put",), "noun": ("pan",)}, (3604.37, 3606.17)),
        (paths[1], {"verb": ("put",), "noun": ("cup",)}, (4.37, 6.17)),
    ]
    val = open_data(tmp_path).split("val", LabelSpace({"noun": ("cup", "pan"), "verb": ("take",)}))
    assert [(video.labels, video.span) for video in val.videos] == [
        ({"noun": ("pan",), "verb": ("take",)}, (0.0, 1.89))
    ]
    assert not train.labels.multi_label


def test_epic_kitchens_from_frames(tmp_path: Path) -> None:
    epic(tmp_path)
    touch(tmp_path, *(f"{name[:3]}/rgb_frames/{name}/frame_0000000001.jpg" for name in ("P01_01", "P02_103")))
    # Extracted at 60 frames per second, but read at 25: frames 8 to 202, counted from 1.
    found = [(str(video.source), video.span) for video in open_data(tmp_path).split("train").videos]
    assert found[0] == (str(tmp_path / "P01/rgb_frames/P01_01"), (7 / 25, 202 / 25))
    assert found[2] == (str(tmp_path / "P02/rgb_frames/P02_103"), (261 / 25, 370 / 25))


def test_damaged_epic_kitchens(tmp_path: Path) -> None:
    epic(tmp_path)
    write(tmp_path / "EPIC_100_verb_classes.csv", "id,key", "0,put", "1,open")
    assert "validation.csv: line 2: verb_class '2' is not in EPIC_100_verb_classes.csv" in error_of(tmp_path)
    write(tmp_path / "EPIC_100_verb_classes.csv", "id,name", "0,put")
    assert "no column 'key'" in error_of(tmp_path)
    (tmp_path / "EPIC_100_verb_classes.csv").unlink()
    assert "EPIC_100_verb_classes.csv must be beside it" in error_of(tmp_path)


def ucf(folder: Path) -> Path:
    write(folder / "classInd.txt", "1 ApplyEyeMakeup", "2 HandstandPushups", "10 Archery", end="\r\n")
    for number, (train, test) in {"01": ("08", "01"), "02": ("01", "08")}.items():
        lines = [
            f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{train}_c01.avi 1",
            f"HandstandPushups/v_HandStandPushups_g{train}_c01.avi 2",
        ]
        write(folder / f"trainlist{number}.txt", *lines, end="\r\n")
        write(folder / f"testlist{number}.txt", f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{test}_c01.avi", end="\r\n")
    return folder


@pytest.mark.parametrize("annotations", ["ucfTrainTestlist", "annotations", ""])
def test_ucf101(annotations: str, tmp_path: Path) -> None:
    folder = ucf(tmp_path / annotations)
    makeup = [f"UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g{group}_c01.avi" for group in ("08", "01")]
    pushups = [f"UCF-101/HandstandPushups/v_HandStandPushups_g{group}_c01.avi" for group in ("08", "01")]
    touch(tmp_path, *makeup, *pushups)
    train, val = open_data(tmp_path).split("train"), open_data(tmp_path).split("val")
    assert named(train, tmp_path) == {makeup[0]: "ApplyEyeMakeup", pushups[0]: "HandstandPushups"}
    assert named(val, tmp_path) == {makeup[1]: "ApplyEyeMakeup"}
    assert train.labels.classes == {"classes": ("ApplyEyeMakeup", "HandstandPushups", "Archery")}
    assert "(split 1; validated on its test list)" in val.description
    second = open_data(folder / "testlist02.txt", tmp_path).split("train")
    assert named(second, tmp_path) == {makeup[1]: "ApplyEyeMakeup", pushups[1]: "HandstandPushups"}
    write(folder / "classInd.txt", "1 ApplyEyeMakeup", "2 HandStandPushups")
    assert "not in the list of classes beside it: HandstandPushups" in error_of(tmp_path)
    (folder / "testlist01.txt").unlink()
    assert "testlist01.txt: no such file; UCF-101" in error_of(tmp_path)


@pytest.mark.parametrize("annotations", ["testTrainMulti_7030_splits", ""])
def test_hmdb51(annotations: str, tmp_path: Path) -> None:
    folder = tmp_path / annotations
    write(folder / "brush_hair_test_split1.txt", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 ",
          "#20_Rhythm_clap(2)_u_nm.avi 2 ", "atheism_brush_hair_u_nm_np2_le_goo_0.avi 0 ")  # fmt: skip
    write(folder / "clap_test_split1.txt", "#20_Rhythm_clap(2)_u_nm.avi 1 ")
    write(folder / "brush_hair_test_split2.txt", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 2 ")
    write(folder / "clap_test_split2.txt", "#20_Rhythm_clap(2)_u_nm.avi 1 ")
    touch(tmp_path, "hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi")
    touch(tmp_path, "hmdb51_org/brush_hair/atheism_brush_hair_u_nm_np2_le_goo_0.avi")
    touch(tmp_path, *(f"hmdb51_org/{name}/#20_Rhythm_clap(2)_u_nm.avi" for name in ("brush_hair", "clap")))
    train, val = open_data(tmp_path).split("train"), open_data(tmp_path).split("val")
    assert named(train, tmp_path / "hmdb51_org") == {
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi": "brush_hair",
        "clap/#20_Rhythm_clap(2)_u_nm.avi": "clap",
    }
    assert named(val, tmp_path / "hmdb51_org") == {"brush_hair/#20_Rhythm_clap(2)_u_nm.avi": "brush_hair"}
    second = open_data(folder / "clap_test_split2.txt", tmp_path).split("val")
    assert list(named(second, tmp_path)) == ["hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi"]


def test_charades(tmp_path: Path) -> None:
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
    rows = [
        '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking",food;stove,'
        '"Someone is ""cooking"".;Two\nlines",c002 11.90 21.20;c000 0.00 12.60;c002 1 2,24.83',
        "N11GT,0KZ7,Stairs,6,7,Yes,Idle,,nothing,,18.33",
    ]
    write(tmp_path / "Charades/Charades_v1_train.csv", header, *rows)
    write(tmp_path / "Charades/Charades_v1_test.csv", header, "YSKX3,X,Y,6,7,Yes,x,,y,c001 0.00 32.00,31.5")
    lines = ("c000 Holding some clothes", "c001 Putting clothes somewhere", "c002 Taking some clothes")
    write(tmp_path / "Charades/Charades_v1_classes.txt", *lines)
    touch(tmp_path, *(f"Charades_v1_480/{name}.mp4" for name in ("46GP8", "N11GT", "YSKX3")))
    train, val = open_data(tmp_path).split("train"), open_data(tmp_path).split("val")
    assert train.labels.multi_label and val.labels.multi_label
    assert [video.labels["classes"] for video in train.videos] == [("Taking some clothes", "Holding some clothes"), ()]
    assert named(val, tmp_path) == {"Charades_v1_480/YSKX3.mp4": ("Putting clothes somewhere",)}
    assert "(validated on the test videos)" in val.description


@pytest.mark.parametrize("make", [kinetics, something, epic, ucf])
def test_without_any_video_the_message_says_where_it_looked(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path)
    for videos in (None, tmp_path / "elsewhere"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        message = error_of(tmp_path, "train", videos)
        assert re.search(r"only 0 of \d videos are there", message)
        assert f"videos in {videos or tmp_path}:" in message


def test_names_of_a_model_of_another_set(tmp_path: Path) -> None:
    ucf(tmp_path)
    touch(tmp_path, *(f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{group}_c01.avi" for group in ("08", "01")))
    message = error_of(tmp_path, "val", labels=LabelSpace({"classes": ("apply eye makeup", "ApplyLipstick")}))
    assert "the model lacks 1 of the data's 3 classes" in message


def test_own_lists_beside_a_folder_of_annotations_go_first(tmp_path: Path) -> None:
    kinetics(tmp_path / "annotations")
    write(tmp_path / "train.csv", "path,label", "1.mp4,a", "2.mp4,b", "3.mp4,a")
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    assert len(open_data(tmp_path).split("train").videos) == 2
