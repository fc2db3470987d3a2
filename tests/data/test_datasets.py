"""Data sets made of empty files; no test here opens a video."""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import refused
from vivit.data.datasets import DataSet, LabelledVideo, VideoSet
from vivit.data.loader import label_tensors
from vivit.data.readers.listing import open_data
from vivit.data.readers.lists import read_list
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.video.source import InShard


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def source(video: LabelledVideo) -> Path:
    assert isinstance(video.source, Path)
    return video.source


def content(videos: VideoSet, root: Path) -> set[tuple[str, str]]:
    """Paths relative to the root, and class names."""
    found = [(source(video).relative_to(root).as_posix(), video.labels["classes"][0]) for video in videos.videos]
    assert len(set(found)) == len(found)
    return set(found)


def class_folders(root: Path) -> Path:
    """Three classes of 10, 5 and 2 videos."""
    sizes = {"run": 10, "walk": 5, "jump": 2}
    return touch(root, *(f"{name}/{name}{i}.mp4" for name, size in sizes.items() for i in range(size)))


def error_of(data: Path, split: str = "train", classes: Sequence[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        open_data(data).split(split, None if classes is None else LabelSpace({"classes": tuple(classes)}))
    message = str(caught.value)
    assert "\n" not in message
    assert str(data) in message
    return message


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation"), ("train", "valid")])
def test_folders_of_splits(names: tuple[str, str], tmp_path: Path) -> None:
    train, val = names
    touch(tmp_path, f"{train}/b/1.mp4", f"{train}/a/deep/2.AVI", f"{train}/a/notes.txt", f"{train}/a/.hidden.mp4")
    touch(tmp_path, f"{val}/a/3.webm", f"{val}/b/4.mkv", f"{train}/.cache/5.mp4")
    assert content(open_data(tmp_path).split("train"), tmp_path) == {
        (f"{train}/b/1.mp4", "b"),
        (f"{train}/a/deep/2.AVI", "a"),
    }
    assert content(open_data(tmp_path).split("val"), tmp_path) == {(f"{val}/a/3.webm", "a"), (f"{val}/b/4.mkv", "b")}
    assert open_data(tmp_path).split("train").labels.classes == {"classes": ("a", "b")}


def test_folder_of_csv_lists(tmp_path: Path) -> None:
    touch(tmp_path, "clips/one, two.mp4", "clips/2.mp4", "clips/3.mp4")
    write(tmp_path / "train.csv", "path,label", '"clips/one, two.mp4",long jump', "clips/2.mp4,run")
    write(tmp_path / "val.csv", "label,path", "run,clips/3.mp4")
    train, val = open_data(tmp_path).split("train"), open_data(tmp_path).split("val")
    assert content(train, tmp_path) == {("clips/one, two.mp4", "long jump"), ("clips/2.mp4", "run")}
    assert content(val, tmp_path) == {("clips/3.mp4", "run")}
    assert train.labels.classes == val.labels.classes == {"classes": ("long jump", "run")}


def test_folder_of_txt_lists(tmp_path: Path) -> None:
    touch(tmp_path, "my clips/1.mp4", "2.mp4", "3.mp4")
    write(tmp_path / "train.txt", "my clips/1.mp4 10", "", "2.mp4\t9")
    write(tmp_path / "val.txt", f"{tmp_path}/3.mp4 9")
    assert content(open_data(tmp_path).split("train"), tmp_path) == {("my clips/1.mp4", "10"), ("2.mp4", "9")}
    assert content(open_data(tmp_path).split("val"), tmp_path) == {("3.mp4", "9")}
    assert open_data(tmp_path).split("val").labels.classes == {"classes": ("9", "10")}  # by value


def test_one_csv_with_splits(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "4.mp4")
    rows = ["1.mp4,a,train", "2.mp4,b,Training", "3.mp4,a,validation", "4.mp4,c,test"]
    data = write(tmp_path / "all.csv", "\ufeffpath,label,split", *rows)
    assert content(open_data(data).split("train"), tmp_path) == {("1.mp4", "a"), ("2.mp4", "b")}
    assert content(open_data(data).split("val"), tmp_path) == {("3.mp4", "a")}
    assert content(open_data(data).split("all"), tmp_path) == {("3.mp4", "a")}
    assert content(open_data(data).split("test"), tmp_path) == {("4.mp4", "c")}
    # A class that only one split has keeps its number in all splits.
    assert open_data(data).split("val").labels.classes == {"classes": ("a", "b", "c")}


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_videos_without_a_split_among_those_with_one_are_not_left_out_quietly(split: str, tmp_path: Path) -> None:
    data = write(tmp_path / "all.csv", "path,label,split", "1.mp4,a,train", "2.mp4,b,", "3.mp4,a,val", "4.mp4,b,")
    assert "2 videos have no split, but others do: 2.mp4, 4.mp4" in error_of(data, split)


@pytest.mark.parametrize("layout", ["folders", "csv", "txt"])
def test_without_splits_a_fifth_of_each_class_is_held_out(layout: str, tmp_path: Path) -> None:
    data = class_folders(tmp_path)
    videos = [(path.relative_to(tmp_path).as_posix(), path.parent.name) for path in sorted(tmp_path.rglob("*.mp4"))]
    if layout == "csv":
        data = write(tmp_path / "list.csv", "path,label", *(f"{path},{label}" for path, label in videos))
    elif layout == "txt":
        data = write(tmp_path / "list.txt", *(f"{path} {label}" for path, label in videos))
    train, val = (content(open_data(data).split(split), tmp_path) for split in ("train", "val"))
    assert not train & val
    assert train | val == set(videos) == content(open_data(data).split("all"), tmp_path)
    assert Counter(label for _, label in val) == {"run": 2, "walk": 1, "jump": 1}


def test_train_without_val_holds_out_too(tmp_path: Path) -> None:
    class_folders(tmp_path / "train")
    assert len(open_data(tmp_path).split("train").videos) == 13
    assert len(open_data(tmp_path).split("val").videos) == 4


def test_hold_out_depends_on_names_alone(tmp_path: Path) -> None:
    here, there = class_folders(tmp_path / "here"), class_folders(tmp_path / "a" / "place elsewhere")
    listed = [f"{path.relative_to(there)} {path.parent.name}" for path in sorted(there.rglob("*.mp4"), reverse=True)]
    expected = content(open_data(here).split("val"), here)
    assert content(open_data(there).split("val"), there) == expected
    assert content(open_data(write(there / "list.txt", *listed)).split("val"), there) == expected
    # They are not simply the first by name.
    assert expected != {
        ("run/run0.mp4", "run"),
        ("run/run1.mp4", "run"),
        ("walk/walk0.mp4", "walk"),
        ("jump/jump0.mp4", "jump"),
    }


def test_classes_of_a_model_give_the_numbers(tmp_path: Path) -> None:
    data = touch(tmp_path, "run/1.mp4", "walk/2.mp4")
    videos = open_data(data).split("all", LabelSpace({"classes": ("walk", "swim", "run")}))
    assert videos.labels.classes == {"classes": ("walk", "swim", "run")}
    assert {source(video).name: label_tensors(videos, i)["classes"] for i, video in enumerate(videos.videos)} == {
        "1.mp4": 2,
        "2.mp4": 0,
    }
    # With the labels of a model, one class is enough.
    assert (
        len(
            open_data(touch(tmp_path / "one", "run/1.mp4"))
            .split("all", LabelSpace({"classes": ("walk", "run")}))
            .videos
        )
        == 1
    )


def test_frames_in_a_folder_are_a_video(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"run/clip one/{i}.jpg" for i in range(3)), "run/2.mp4", "run/cover.png", "run/clip one/.DS_Store"
    )
    touch(tmp_path, "walk/deep/3/0001.PNG", "walk/deep/empty/notes.txt", "walk/4/5.mp4", "walk/4/poster.jpg")
    videos = open_data(tmp_path).split("all")
    assert content(videos, tmp_path) == {
        ("run/clip one", "run"),
        ("run/2.mp4", "run"),
        ("walk/deep/3", "walk"),
        ("walk/4/5.mp4", "walk"),
    }
    assert videos.description == f"all videos of class folders in {tmp_path}"


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31mred", b"a\rb", "a\u2028b".encode(), b"\x7f"])
def test_a_class_name_must_be_text_in_one_line(name: bytes, tmp_path: Path) -> None:
    class_folders(tmp_path)
    touch(tmp_path / os.fsdecode(name), "1.mp4", "2.mp4")
    message = refused(lambda: open_data(tmp_path), "rename the class")
    assert message.isprintable()


def test_class_names_of_any_script_are_text(tmp_path: Path) -> None:
    names = {"走る", "a\u3000b", "می\u200cخواهم", "naïve", "👩\u200d🚀", "-x", "=1"}
    for name in names:
        touch(tmp_path / name, "1.mp4")
    assert set(open_data(tmp_path).labels.classes["classes"]) == names


def test_link_to_a_video_that_is_gone(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "run/lost.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    assert "run/lost.mp4: named by class folders" in error_of(tmp_path)


FORMS = {
    "bom.csv": '\ufeffpath,label,split\r\n"a, b.mp4","jump, long",train\r\n\r\nc d.mp4,7,Validation\r\n,,\r\n',
    "semicolons.csv": 'label;split;path\n"jump, long";train;a, b.mp4\n7;val;c d.mp4\n',
    "tabs.tsv": "path\tsplit\tlabel\na, b.mp4\ttrain\tjump, long\nc d.mp4\tval\t7\n",
    "index.csv": ',File_Name,LABEL,Split,frames\n0,"a, b.mp4","jump, long",train,30\n1,c d.mp4,7,val,31\n',
    "list.json": '[{"path": "a, b.mp4", "label": "jump, long", "split": "train"},'
    ' {"label": 7, "path": "c d.mp4", "split": "val", "fps": 25.0}]',
    "list.jsonl": '{"path": "a, b.mp4", "label": "jump, long", "split": "train"}\r\n\r\n'
    '{"label": 7, "video": "no", "path": "./c d.mp4", "split": "valid"}',
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_lists(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a, b.mp4", "c d.mp4")
    (tmp_path / name).write_bytes(FORMS[name].encode())
    assert content(open_data(tmp_path / name).split("train"), tmp_path) == {("a, b.mp4", "jump, long")}
    val = open_data(tmp_path / name).split("val")
    assert content(val, tmp_path) == {("c d.mp4", "7")}
    assert val.description == f"the val split of the list {tmp_path / name}"
    assert not val.labels.multi_label


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("list.csv", ["my clips/1.mp4 a", "2.mp4 b b"]),  # SlowFast's and VideoMAE's lists
        ("list.csv", ["my clips/1.mp4,a", "2.mp4 b,b"]),
        ("list.txt", ["my clips/1.mp4\ta", "2.mp4\tb"]),
        ("list.txt", ["my clips/1.mp4 a\r", "2.mp4 b\r", "\r"]),
        ("list.csv", ["path,label", "my clips\\1.mp4,a", "2.mp4,b"]),
    ],
)
def test_lists_without_names_of_columns_and_from_windows(name: str, lines: list[str], tmp_path: Path) -> None:
    touch(tmp_path, "my clips/1.mp4", "2.mp4", "2.mp4 b")
    found = content(open_data(write(tmp_path / name, *lines)).split("all"), tmp_path)
    assert ("my clips/1.mp4", "a") in found
    assert {label for _, label in found} == {"a", "b"}


def test_several_heads(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    data = write(tmp_path / "list.csv", "path,Verb,noun", "1.mp4,open,door", "2.mp4,close,door", "3.mp4,open,lid")
    videos = open_data(data).split("all")
    assert videos.labels.classes == {"Verb": ("close", "open"), "noun": ("door", "lid")}
    assert [video.labels for video in videos.videos] == [
        {"Verb": ("open",), "noun": ("door",)},
        {"Verb": ("close",), "noun": ("door",)},
        {"Verb": ("open",), "noun": ("lid",)},
    ]


def test_a_single_column_of_another_name_is_the_label(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    data = write(tmp_path / "list.csv", "video,action", "1.mp4,run", "2.mp4,walk")
    assert open_data(data).split("all").labels.classes == {"classes": ("run", "walk")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path,label\n1.mp4,b; a\n2.mp4,[in] the [box]\n3.mp4,a;a\n"),
        ("list.csv", 'path,labels\n1.mp4,"[""b"", ""a""]"\n2.mp4,[in] the [box]\n3.mp4,a\n'),
        ("list.tsv", "path\tlabel\n1.mp4\t['b', 'a']\n2.mp4\t[in] the [box]\n3.mp4\ta\n"),
        (
            "list.json",
            '[{"path": "1.mp4", "label": ["b", "a"]}, {"path": "2.mp4", "label": "[in] the [box]"},'
            ' {"path": "3.mp4", "label": ["a"]}]',
        ),
    ],
)
def test_several_labels_of_a_video(name: str, text: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    (tmp_path / name).write_text(text)
    videos = open_data(tmp_path / name).split("all")
    assert videos.labels.multi_label
    assert videos.labels.classes == {"classes": ("[in] the [box]", "a", "b")}
    assert [video.labels["classes"] for video in videos.videos] == [("b", "a"), ("[in] the [box]",), ("a",)]


def test_a_video_may_have_none_of_many_labels(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    videos = open_data(write(tmp_path / "list.csv", "path,labels", "1.mp4,a;b", "2.mp4,")).split("all")
    assert [video.labels["classes"] for video in videos.videos] == [("a", "b"), ()]


def test_spans(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    rows = ["1.mp4,a,0,2.5", "1.mp4,b,00:01:02.25,0:1:3", "2.mp4,a,,"]
    videos = open_data(write(tmp_path / "list.csv", "path,label,start,end", *rows)).split("all")
    assert [video.span for video in videos.videos] == [(0.0, 2.5), (62.25, 63.0), None]


def test_spans_of_a_video_stay_together_when_some_are_held_out(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.mp4" for i in range(12)))
    rows = [
        f"{i}.mp4,{label},{start},{start + 1}" for i in range(12) for start, label in enumerate("abab"[: 2 + i % 3])
    ]
    data = write(tmp_path / "list.csv", "path,label,start,end", *rows)
    train, val = open_data(data).split("train"), open_data(data).split("val")
    assert not {video.source for video in train.videos} & {video.source for video in val.videos}
    assert len(train.videos) + len(val.videos) == len(rows)
    for videos in (train, val):
        assert {video.labels["classes"][0] for video in videos.videos} == set(videos.labels.classes["classes"])
    # A fifth of each class, or one video more.
    assert len(rows) // 5 <= len(val.videos) <= len(rows) // 5 + 4


def test_holding_out_leaves_something_of_each_class_to_train_on(tmp_path: Path) -> None:
    # All clips of b are in the one video that would be held out for the rare class c.
    touch(tmp_path, *(f"{i}.mp4" for i in range(6)))
    rows = ["0.mp4,c,0,1", "0.mp4,b,1,2", "0.mp4,b,2,3", *(f"{i}.mp4,{'ac'[i == 5]},0,1" for i in range(1, 6))]
    train = open_data(write(tmp_path / "list.csv", "path,label,start,end", *rows)).split("train")
    assert {video.labels["classes"] for video in train.videos} == {("a",), ("b",), ("c",)}


def test_rows_that_repeat_others_count_once(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    videos = open_data(write(tmp_path / "list.csv", "path,label", "1.mp4,a", "2.mp4,b", "./1.mp4,a")).split("all")
    assert content(videos, tmp_path) == {("1.mp4", "a"), ("2.mp4", "b")}
    assert videos.description.endswith("list.csv, 1 repeated row left out")


def test_spans_of_one_video_in_several_splits(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    rows = ["1.mp4,a,train,0,10", "1.mp4,b,val,10,20", "1.mp4,b,train,20,30"]
    data = write(tmp_path / "list.csv", "path,label,split,start,end", *rows)
    assert [video.span for video in open_data(data).split("val").videos] == [(10.0, 20.0)]


def test_lists_go_before_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.mp4", "train/2.mp4", "val/a/3.mp4", "val/b/4.mp4")
    write(tmp_path / "train.jsonl", '{"path": "train/1.mp4", "label": "a"}', '{"path": "train/2.mp4", "label": "b"}')
    assert content(open_data(tmp_path).split("train"), tmp_path) == {("train/1.mp4", "a"), ("train/2.mp4", "b")}
    assert content(open_data(tmp_path).split("val"), tmp_path) == {("val/a/3.mp4", "a"), ("val/b/4.mp4", "b")}


def test_paths_are_relative_to_the_folder_of_the_videos(tmp_path: Path) -> None:
    touch(tmp_path, "far/away/1.mp4", "far/away/2.mp4")
    data = write(tmp_path / "list.csv", "path,label", "away/1.mp4,a", "away/2.mp4,b")
    videos = open_data(data, tmp_path / "far").split("all")
    assert content(videos, tmp_path) == {("far/away/1.mp4", "a"), ("far/away/2.mp4", "b")}
    assert videos.description == f"all videos of the list {data}, videos in {tmp_path / 'far'}"


def test_metadata_of_hugging_face_in_each_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.mp4", "train/sub/2.mp4", "train/3.mp4", "test/3.mp4")
    rows = ["1.mp4,a,hello", "sub/2.mp4,b,you", "3.mp4,b,there"]
    write(tmp_path / "train/metadata.csv", "file_name,label,text", *rows)
    write(tmp_path / "test/metadata.jsonl", '{"file_name": "3.mp4", "label": "b"}')
    assert content(open_data(tmp_path).split("test"), tmp_path) == {("test/3.mp4", "b")}
    train, val = (content(open_data(tmp_path).split(split), tmp_path) for split in ("train", "val"))
    assert train | val == {("train/1.mp4", "a"), ("train/sub/2.mp4", "b"), ("train/3.mp4", "b")}
    assert len(val) == 1


def test_metadata_of_hugging_face_beside_the_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.mp4", "train/2.mp4", "validation/3.mp4")
    rows = ["train/1.mp4,a", "train/2.mp4,b", "validation/3.mp4,b"]
    write(tmp_path / "metadata.csv", "file_name,label", *rows)
    assert content(open_data(tmp_path).split("train"), tmp_path) == {("train/1.mp4", "a"), ("train/2.mp4", "b")}
    assert content(open_data(tmp_path).split("val"), tmp_path) == {("validation/3.mp4", "b")}


def shard(file: Path, labels: dict[str, str]) -> Path:
    """Write a tar of empty videos, each with its labels beside it."""
    with tarfile.open(file, "w") as tar:
        for name, text in labels.items():
            for member, content in ((f"{name}.mp4", b"video"), (f"{name}.json", text.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file


def test_shards(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    shard(tmp_path / "train/0.tar", {"1": '{"label": "a"}', "2": '{"label": "b"}'})
    shard(tmp_path / "val.tar", {"3": '{"label": "b"}'})
    videos = open_data(tmp_path).split("val")
    assert [(str(video.source), video.labels["classes"]) for video in videos.videos] == [
        (f"{tmp_path}/val.tar/3.mp4", ("b",))
    ]
    # A tar file beside class folders is ignored.
    class_folders(tmp_path / "plain")
    shard(tmp_path / "plain/download.tar", {"1": '{"label": "a"}'})
    assert len(open_data(tmp_path / "plain").split("all").videos) == 17


def test_some_shards_have_other_labels(tmp_path: Path) -> None:
    both = '{"labels": {"verb": "c", "noun": "d"}}'
    rows = {"1": '{"labels": {"verb": "a"}}', "2": '{"labels": {"noun": "b"}}', "3": both}
    data = shard(tmp_path / "0.tar", rows)
    assert "1.mp4: has no labels for noun; others have one" in error_of(data, "all")


def test_other_metadata_is_not_a_list(tmp_path: Path) -> None:
    write(class_folders(tmp_path) / "metadata.csv", "camera,date", "phone,2024")
    assert len(open_data(tmp_path).split("all").videos) == 17


def test_a_missing_file_of_another_split_is_no_matter(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    rows = ["1.mp4,a,train", "2.mp4,b,train", "3.mp4,c,val"]
    data = write(tmp_path / "list.csv", "path,label,split", *rows)
    # Its class still has a number.
    assert open_data(data).split("train").labels.classes == {"classes": ("a", "b", "c")}
    assert "3.mp4" in error_of(data, "val")


def test_long_lists_ask_for_no_file_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{i % 7}/{i}.mp4" for i in range(300)))
    data = write(tmp_path / "list.csv", "path,label", *(f"{i % 7}/{i}.mp4,{i % 5}" for i in range(300)))
    listed: list[str] = []
    listdir = os.listdir

    def counting(folder: str) -> list[str]:
        listed.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", counting)
    monkeypatch.setattr(os.path, "exists", None)
    read = read_list(data)
    assert len(read.entries) == 300
    assert sorted(listed) == [str(tmp_path / str(i)) for i in range(7)]


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such file or folder" in error_of(tmp_path / "nowhere")


@pytest.mark.parametrize("files", [(), ("notes.txt",), ("train/a/notes.txt", "val/a/notes.txt")])
@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_no_videos(files: tuple[str, ...], split: str, tmp_path: Path) -> None:
    message = error_of(touch(tmp_path, *files), split)
    assert "no videos found" in message
    assert "folder of videos for each class" in message
    assert "train/ and val/" in message
    assert ".csv" in message


def test_loose_videos(tmp_path: Path) -> None:
    message = error_of(touch(tmp_path, "b.mp4", "a.mov", "notes.txt"))
    assert "its videos are not in class folders (a.mov, b.mp4); make one folder" in message


def test_a_class_without_videos_is_named(tmp_path: Path) -> None:
    source = open_data(touch(tmp_path, "jump/1.mp4", "run/1.mp4", "swim/notes.txt")).split("all").description
    assert source.endswith(f"class folders in {tmp_path}, no video in {tmp_path / 'swim'}")


def test_empty_list(tmp_path: Path) -> None:
    assert "no videos found" in error_of(write(tmp_path / "list.txt"))


def test_one_class(tmp_path: Path) -> None:
    message = error_of(touch(tmp_path, "run/1.mp4", "run/2.mp4"))
    assert "one class, 'run'" in message


def test_classes_the_model_lacks_are_counted_on_both_sides(tmp_path: Path) -> None:
    message = error_of(class_folders(tmp_path), "val", ["run", "jumping", "swim", "dance"])
    assert "the model lacks 2 of the data's 3 classes, and the data lacks 3 of the model's 4" in message
    assert "the model does not know 'jump' (it knows 'jumping'), 'walk';" in message  # and nothing that is near to walk


def test_many_classes_are_shortened(tmp_path: Path) -> None:
    touch(tmp_path, *(f"c{i}/{j}.mp4" for i in range(9) for j in range(2)))
    message = error_of(tmp_path, "all", ["run", *(f"other thing {i}" for i in range(9))])
    assert "9 of the data's 9 classes" in message and "10 of the model's 10" in message
    assert "'c0', 'c1', 'c2', 'c3' and 5 more; it knows other thing 0," in message


def test_classes_that_differ_only_in_how_they_are_written(tmp_path: Path) -> None:
    touch(tmp_path, "Air_Drumming/1.mp4", "riding a  bike/2.mp4", "caf\u00e9/3.mp4")
    message = error_of(tmp_path, "all", ["air drumming", "riding a bike", "cafe\u0301", "archery"])
    assert "3 classes differ from the model's only in case, spaces or underscores" in message
    assert "'Air_Drumming' is 'air drumming'" in message


def test_numbers_where_the_model_has_names(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    message = error_of(write(tmp_path / "list.txt", "1.mp4 0", "2.mp4 7"), "all", ["run", "walk"])
    assert "the data's labels are numbers (0, 7); write the names" in message


def test_listed_files_that_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    data = write(tmp_path / "list.txt", "1.mp4 a", "lost.mp4 b", "gone.mp4 b")
    message = error_of(data, "all")
    assert message.startswith(f"{tmp_path / 'lost.mp4'}: ")
    assert "2 of 3" in message


def test_split_that_is_not_there(tmp_path: Path) -> None:
    assert "no test split; the data is not split" in error_of(class_folders(tmp_path / "plain"), "test")
    touch(tmp_path / "split", "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    assert "no test split; there is train, val" in error_of(tmp_path / "split", "test")


@pytest.mark.parametrize(
    ("name", "lines", "cause"),
    [
        ("list.txt", ["1.mp4 a", "2.mp4"], "'2.mp4' has no label"),
        ("list.csv", ["clip,label", "1.mp4,a"], "no column 'path'"),
        ("list.csv", ["path", "1.mp4"], "no column 'label'"),
        ("list.csv", ["path,label,label", "1.mp4,a,b"], "two columns 'label'"),
        ("list.csv", ["path,label,labels", "1.mp4,a,b"], "'label' and a column 'labels'"),
        ("list.csv", ["path,label", "1.mp4,a", ",b"], "line 3 has no path"),
        ("list.csv", ["path,label", "1.mp4,open, door"], "line 2 has 3 cells, but the first line names 2"),
        ("list.csv", ["path,label", '1.mp4,"open'] + ["x" * 1000] * 200, "is not CSV"),
        ("list.csv", ["path,verb,noun", "1.mp4,open,"], "line 2 has no noun"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,5,"], "line 2: start '5' and end '' are not a span"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,5,5"], "are not a span"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,nan,inf"], "are not a span"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,one,two"], "are not a span"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,1_0,2_0"], "are not a span"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,1:-30,1:0:0"], "are not a span"),
        ("list.csv", ["path,label,start,end", "1.mp4,a,0,1:2:3:4"], "are not a span"),
        ("list.csv", ["p" * 200_000], "is not CSV"),
        ("list.csv", ["1.mp4,a,train"], "line 1 has 3 cells; the first line must name the columns"),
        ("list.json", ['{"1.mp4": "a"}'], "not a list of videos; write [{"),
        ("list.json", ['[{"path": "1.mp4", "label": "a"}'], "not JSON"),
        ("list.json", ["[" * 100_000], "not JSON"),
        ("list.json", ['["1.mp4"]'], "entry 1 is not like"),
        ("list.json", ['[{"path": "1.mp4", "label": 1.5}]'], "line 1: label 1.5 is not a label"),
        ("list.json", ['[{"path": "1.mp4", "label": true}]'], "is not a label"),
        ("list.json", ['[{"path": "1.mp4", "label": [["a"]]}]'], "is not a label"),
        ("list.json", ['[{"path": "1.mp4", "label": "a"}, {"path": "2.mp4"}]'], "line 2 has no label"),
        (
            "list.json",
            ['[{"path": "1.mp4", "label": "None"}, {"path": "2.mp4", "label": null}]'],
            "line 2 has no label",
        ),
        ("list.json", ['[{"path": 3, "label": "a"}]'], "line 1 has no path"),
        ("list.jsonl", ['{"path": "1.mp4", "label": "a"}', "{"], "line 2: not JSON"),
        ("list.csv", ["path,label", "1.mp4,a", "2.mp4,"], "line 3 "),
        ("list.csv", ["path,label", "1.mp4,a", "2.mp4"], "line 3 "),
        ("list.csv", ["path,label,split", "1.mp4,a,dev"], "line 2 "),
    ],
)
def test_list_that_cannot_be_read(name: str, lines: list[str], cause: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    assert cause in error_of(write(tmp_path / name, *lines))


def test_list_that_is_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "list.csv").write_bytes("path,label\n1.mp4,café\n".encode("cp1252"))
    assert "line 2 is not UTF-8; save the file as UTF-8" in error_of(tmp_path / "list.csv")


def test_column_that_is_no_label(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.mp4" for i in range(10)))
    rows = [f"{i}.mp4,{'ab'[i % 2]},{i / 4}" for i in range(10)]
    message = error_of(write(tmp_path / "list.csv", "path,verb,duration", *rows))
    assert "the column 'duration' has a different value in each row" in message


def test_same_video_with_two_labels(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    message = error_of(write(tmp_path / "list.csv", "path,label", "1.mp4,a", "2.mp4,b", "./1.mp4,b"))
    assert "1.mp4 twice, as 'a' and as 'b'" in message


def test_video_that_is_trained_on_and_scored(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    write(tmp_path / "train.csv", "path,label", "1.mp4,a", "2.mp4,b")
    write(tmp_path / "val.csv", "path,label", "2.mp4,b")
    assert "2.mp4 is in train and in val, as a whole" in error_of(tmp_path)
    spans = ["1.mp4,a,train,0,10", "1.mp4,b,val,9.5,20", "2.mp4,b,train,,"]
    data = write(tmp_path / "list.csv", "path,label,split,start,end", *spans)
    assert "1.mp4 is in train and in val, with overlapping spans" in error_of(data)


def test_heads_that_differ_between_lists(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    write(tmp_path / "train.csv", "path,verb,noun", "1.mp4,open,door")
    write(tmp_path / "val.csv", "path,label", "2.mp4,open")
    assert "some lists have the labels classes and others verb, noun" in error_of(tmp_path)


def test_model_of_other_heads(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    data = write(tmp_path / "list.csv", "path,verb,noun", "1.mp4,open,door", "2.mp4,close,lid")
    assert "has labels for the heads verb, noun, but the model predicts one head" in error_of(data, "all", ["open"])
    with pytest.raises(UserError, match=r"noun: the model lacks 1 of the data's 2 classes.*does not know 'lid'"):
        open_data(data).split("all", LabelSpace({"noun": ("door", "drawer"), "verb": ("open", "close")}))
    # Only the model's heads are kept, in its order.
    videos = open_data(data).split("all", LabelSpace({"noun": ("lid", "door")}))
    assert [video.labels for video in videos.videos] == [{"noun": ("door",)}, {"noun": ("lid",)}]


def test_too_few_files_to_hold_some_out(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    data = write(tmp_path / "list.csv", "path,label,start,end", "1.mp4,a,0,1", "1.mp4,b,1,2")
    assert "too few videos to hold some out" in error_of(data, "val")


def test_pictures_that_lie_in_the_class_folder(tmp_path: Path) -> None:
    message = error_of(touch(tmp_path, "run/1.jpg", "run/2.jpg", "walk/1.jpg"))
    assert f"{tmp_path / 'run'} holds pictures" in message


def test_list_in_the_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    write(tmp_path / "labels.csv", "path,label", "1.mp4,a")
    assert "name the list itself: " in error_of(tmp_path)


def test_videos_without_a_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--videos has no effect"):
        open_data(class_folders(tmp_path), tmp_path).split("train")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_data(tmp_path, tmp_path / "nowhere").split("train")


def test_video_given_as_data(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(bytes(range(256)))
    assert "not a list of videos" in error_of(path)


def test_splits_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that a list names are the splits, whatever the working directory."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            touch(tmp_path, f"{split}/{name}.mp4")
    rows = [f"{split}/{name}.mp4,{name}" for split in ("train", "val") for name in ("a", "b")]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    monkeypatch.chdir(tmp_path)
    for data in (Path("."), tmp_path):
        for split in ("train", "val"):
            names = {Path(str(video.source)).parent.name for video in open_data(data).split(split).videos}
            assert names == {split}


def test_shards_and_files_hold_out_the_same_videos(tmp_path: Path) -> None:
    """If all files of a class have the same name, their folders decide."""
    sources = [f"run/{person}/1.mp4" for person in "abcdefghij"]
    entries = [LabelledVideo(tmp_path / source, {"classes": ("run",)}, "") for source in sources]
    members = [
        LabelledVideo(InShard("s.tar", source, i, 1), {"classes": ("run",)}, "")
        for i, source in enumerate(sources[::-1])
    ]
    space = LabelSpace({"classes": ("run",)})
    files, shards = (
        DataSet("data", tuple(videos), space, "a test").split("val", space).videos for videos in (entries, members)
    )
    held = {str(video.source).removeprefix(f"{tmp_path}/") for video in files}
    assert held == {video.source.name for video in shards if isinstance(video.source, InShard)}
    assert len(held) == 2
