"""Data sets of empty files: nothing here opens a video."""

from collections import Counter
from pathlib import Path

import pytest

from vivit.errors import UserError
from vivit.video.datasets import LabelledVideo, VideoSet, open_split


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


def label(video: LabelledVideo) -> int:
    number = video.labels["classes"]
    assert isinstance(number, int)
    return number


def content(videos: VideoSet, root: Path) -> set[tuple[str, str]]:
    """Paths relative to the root and names of classes."""
    found = [
        (source(video).relative_to(root).as_posix(), videos.classes["classes"][label(video)]) for video in videos.videos
    ]
    assert len(set(found)) == len(found)
    return set(found)


def class_folders(root: Path) -> Path:
    """Three classes of 10, 5 and 2 videos."""
    sizes = {"run": 10, "walk": 5, "jump": 2}
    return touch(root, *(f"{name}/{name}{i}.mp4" for name, size in sizes.items() for i in range(size)))


def error_of(data: Path, split: str = "train", classes: list[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        open_split(data, split, classes)
    message = str(caught.value)
    assert "\n" not in message
    assert str(data) in message
    return message


# --- layouts


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation"), ("train", "valid")])
def test_folders_of_splits(names: tuple[str, str], tmp_path: Path) -> None:
    train, val = names
    touch(tmp_path, f"{train}/b/1.mp4", f"{train}/a/deep/2.AVI", f"{train}/a/notes.txt", f"{train}/a/.hidden.mp4")
    touch(tmp_path, f"{val}/a/3.webm", f"{val}/b/4.mkv", f"{train}/.cache/5.mp4")
    assert content(open_split(tmp_path, "train"), tmp_path) == {
        (f"{train}/b/1.mp4", "b"),
        (f"{train}/a/deep/2.AVI", "a"),
    }
    assert content(open_split(tmp_path, "val"), tmp_path) == {(f"{val}/a/3.webm", "a"), (f"{val}/b/4.mkv", "b")}
    assert open_split(tmp_path, "train").classes == {"classes": ("a", "b")}


def test_folder_of_csv_lists(tmp_path: Path) -> None:
    touch(tmp_path, "clips/one, two.mp4", "clips/2.mp4", "clips/3.mp4")
    write(tmp_path / "train.csv", "path,label", '"clips/one, two.mp4",long jump', "clips/2.mp4,run")
    write(tmp_path / "val.csv", "label,path", "run,clips/3.mp4")
    train, val = open_split(tmp_path, "train"), open_split(tmp_path, "val")
    assert content(train, tmp_path) == {("clips/one, two.mp4", "long jump"), ("clips/2.mp4", "run")}
    assert content(val, tmp_path) == {("clips/3.mp4", "run")}
    assert train.classes == val.classes == {"classes": ("long jump", "run")}


def test_folder_of_txt_lists(tmp_path: Path) -> None:
    touch(tmp_path, "my clips/1.mp4", "2.mp4", "3.mp4")
    write(tmp_path / "train.txt", "my clips/1.mp4 10", "", "2.mp4\t9")
    write(tmp_path / "val.txt", f"{tmp_path}/3.mp4 9")
    assert content(open_split(tmp_path, "train"), tmp_path) == {("my clips/1.mp4", "10"), ("2.mp4", "9")}
    assert content(open_split(tmp_path, "val"), tmp_path) == {("3.mp4", "9")}
    assert open_split(tmp_path, "val").classes == {"classes": ("9", "10")}  # by value


def test_one_csv_with_splits(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "4.mp4")
    rows = ["1.mp4,a,train", "2.mp4,b,Training", "3.mp4,a,validation", "4.mp4,c,test"]
    data = write(tmp_path / "all.csv", "\ufeffpath,label,split", *rows)
    assert content(open_split(data, "train"), tmp_path) == {("1.mp4", "a"), ("2.mp4", "b")}
    assert content(open_split(data, "val"), tmp_path) == {("3.mp4", "a")}
    assert content(open_split(data, "all"), tmp_path) == {("3.mp4", "a")}
    assert content(open_split(data, "test"), tmp_path) == {("4.mp4", "c")}
    # A class of one split has its number in all.
    assert open_split(data, "val").classes == {"classes": ("a", "b", "c")}


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_videos_without_a_split_among_those_with_one_are_not_left_out_quietly(split: str, tmp_path: Path) -> None:
    data = write(tmp_path / "all.csv", "path,label,split", "1.mp4,a,train", "2.mp4,b,", "3.mp4,a,val", "4.mp4,b,")
    assert "2 videos have no split, and the others do: 2.mp4, 4.mp4" in error_of(data, split)


@pytest.mark.parametrize("layout", ["folders", "csv", "txt"])
def test_without_splits_a_fifth_of_each_class_is_held_out(layout: str, tmp_path: Path) -> None:
    data = class_folders(tmp_path)
    videos = [(path.relative_to(tmp_path).as_posix(), path.parent.name) for path in sorted(tmp_path.rglob("*.mp4"))]
    if layout == "csv":
        data = write(tmp_path / "list.csv", "path,label", *(f"{path},{label}" for path, label in videos))
    elif layout == "txt":
        data = write(tmp_path / "list.txt", *(f"{path} {label}" for path, label in videos))
    train, val = (content(open_split(data, split), tmp_path) for split in ("train", "val"))
    assert not train & val
    assert train | val == set(videos) == content(open_split(data, "all"), tmp_path)
    assert Counter(label for _, label in val) == {"run": 2, "walk": 1, "jump": 1}


def test_train_without_val_holds_out_too(tmp_path: Path) -> None:
    class_folders(tmp_path / "train")
    assert len(open_split(tmp_path, "train").videos) == 13
    assert len(open_split(tmp_path, "val").videos) == 4


def test_hold_out_depends_on_names_alone(tmp_path: Path) -> None:
    here, there = class_folders(tmp_path / "here"), class_folders(tmp_path / "a" / "place elsewhere")
    listed = [f"{path.relative_to(there)} {path.parent.name}" for path in sorted(there.rglob("*.mp4"), reverse=True)]
    expected = content(open_split(here, "val"), here)
    assert content(open_split(there, "val"), there) == expected
    assert content(open_split(write(there / "list.txt", *listed), "val"), there) == expected
    # Not simply the first by name.
    assert expected != {
        ("run/run0.mp4", "run"),
        ("run/run1.mp4", "run"),
        ("walk/walk0.mp4", "walk"),
        ("jump/jump0.mp4", "jump"),
    }


def test_classes_of_a_model_give_the_numbers(tmp_path: Path) -> None:
    data = touch(tmp_path, "run/1.mp4", "walk/2.mp4")
    videos = open_split(data, "all", ["walk", "swim", "run"])
    assert videos.classes == {"classes": ("walk", "swim", "run")}
    assert {source(video).name: label(video) for video in videos.videos} == {"1.mp4": 2, "2.mp4": 0}
    # Given by a model, one class is enough.
    assert len(open_split(touch(tmp_path / "one", "run/1.mp4"), "all", ["walk", "run"]).videos) == 1


# --- what goes wrong


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such file or folder" in error_of(tmp_path / "nowhere")


@pytest.mark.parametrize("files", [(), ("notes.txt",), ("train/a/notes.txt", "val/a/notes.txt"), ("lonely.mp4",)])
@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_no_videos(files: tuple[str, ...], split: str, tmp_path: Path) -> None:
    message = error_of(touch(tmp_path, *files), split)
    assert "no videos found" in message
    assert "one folder for each class" in message
    assert "train/ and val/" in message
    assert ".csv" in message


def test_empty_list(tmp_path: Path) -> None:
    assert "no videos found" in error_of(write(tmp_path / "list.txt"))


def test_one_class(tmp_path: Path) -> None:
    message = error_of(touch(tmp_path, "run/1.mp4", "run/2.mp4"))
    assert "one class, 'run'" in message


def test_classes_the_model_lacks(tmp_path: Path) -> None:
    message = error_of(class_folders(tmp_path), "val", ["run", "swim"])
    assert "does not have: jump, walk; it has run, swim" in message


def test_many_classes_are_shortened(tmp_path: Path) -> None:
    touch(tmp_path, *(f"c{i}/{j}.mp4" for i in range(9) for j in range(2)))
    assert "c0, c1, c2, c3, c4, c5 and 3 more; it has run" in error_of(tmp_path, "all", ["run"])


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
        ("list.csv", ["file,label", "1.mp4,a"], "no column 'path'"),
        ("list.csv", ["path,class", "1.mp4,a"], "no column 'label'"),
        ("list.csv", ["path,label", "1.mp4,a", "2.mp4,"], "line 3 "),
        ("list.csv", ["path,label", "1.mp4,a", "2.mp4"], "line 3 "),
        ("list.csv", ["path,label,split", "1.mp4,a,dev"], "line 2 "),
    ],
)
def test_list_that_cannot_be_read(name: str, lines: list[str], cause: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    assert cause in error_of(write(tmp_path / name, *lines))


def test_video_given_as_data(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(bytes(range(256)))
    assert "not a list of videos" in error_of(path)
