"""Finds the annotations of a public data set, and the files of the videos they name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vivit.data.datasets import DataSet, LabelledVideo
from vivit.data.names import shortened, sorted_names, split_named
from vivit.data.readers.folders import VideoIndex, is_folder, read_folder
from vivit.data.readers.public_sets import ENDINGS, FORMATS, Annotated, Annotations, Format
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.video.frame_folder import FRAME_RATE
from vivit.video.kinds import EXTENSIONS
from vivit.video.span import Span

# Names of annotation folders beside the videos.
_FOLDER = re.compile(r"annot|label|split|list|metafile|charades$|^meta$", re.IGNORECASE)


def find_annotations(data: Path, below: bool = True) -> Annotations | None:
    """Read the annotations of a public data set, or return None if there are none.

    Args:
        data: one of their files, or the folder that holds them.
        below: also search its subfolders that are named like annotation folders.

    Raises:
        UserError: they are damaged, or two files are for the same split.
    """
    if data.is_file():
        candidates: Iterable[list[Path]] = [[data]]
    else:
        folders = (Path(entry.path) for entry in read_folder(data) if _FOLDER.search(entry.name) and is_folder(entry))
        candidates = map(_possible_files, [data, *sorted(folders)] if below else [data])
    for files in candidates:
        for form in FORMATS:
            if found := _by_group(form, files):
                return form.read(found)
    return None


def _possible_files(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in read_folder(folder) if entry.name.lower().endswith(ENDINGS))


def locate(annotations: Annotations, data: Path, videos: Path | None) -> DataSet:
    """Find the files of the annotated videos.

    Args:
        data: as given to `find_annotations`. Its folder is searched at any depth or, if it holds only annotations, the
            folder above it.
        videos: search this folder instead.

    Raises:
        UserError: no video is found, or several files match one equally well.
    """
    index = VideoIndex(videos or (data if data.is_dir() else data.parent))
    above = index.folder.resolve().parent
    if not index and not videos and _FOLDER.search(index.folder.resolve().name):
        index = VideoIndex(above)
    located, missing = [], dict[str, list[str]]()
    for video in annotations.videos:
        label = next((name for names in video.labels.values() for name in names), "")
        found = (index.find(name, video.parent, video.split, label) for name in video.names)
        path = next((path for path in found if path is not None), None)
        if path is None:
            name = f"{video.parent}/{video.names[0]}" if video.parent else video.names[0]
            missing.setdefault(video.split, []).append(name)
        else:
            located.append(LabelledVideo(Path(path), video.labels, video.split, _span(video, path)))
    files = shortened([str(file) for file in annotations.files], 4)
    data_set = DataSet(
        str(data),
        tuple(located),
        LabelSpace(_all_classes(annotations), annotations.multi_label),
        f"{annotations.title} annotations {files}{annotations.remark}, videos in {index.folder}",
        {split: tuple(names) for split, names in missing.items()},
        official=True,
    )
    if not located:
        data_set.check_files(missing)
    return data_set


def _span(video: Annotated, path: str) -> Span | None:
    if video.frames is None or Path(path).suffix.lower() in EXTENSIONS:
        return video.span
    return (video.frames[0] - 1) / FRAME_RATE, video.frames[1] / FRAME_RATE


def _all_classes(annotations: Annotations) -> Mapping[str, tuple[str, ...]]:
    heads = dict.fromkeys(head for video in annotations.videos for head in video.labels)
    classes = {}
    for head in heads:
        used = {name for video in annotations.videos for name in video.labels[head]}
        classes[head] = annotations.classes.get(head) or sorted_names(used)
        if unknown := sorted_names(used - set(classes[head])):
            raise UserError(
                f"{annotations.files[0]}: labels that are not in the list of classes beside it: {shortened(unknown)}"
            )
    return classes


def _matches(form: Format, file: Path) -> re.Match[str] | None:
    match = form.file.fullmatch(file.name)
    if match is None:
        return None
    try:
        with file.open("rb") as opened:
            beginning = opened.read(4096).decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    return match if re.search(form.opening, beginning) else None


def _by_group(form: Format, files: Sequence[Path]) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if match := _matches(form, file):
            group = split_named(match[1]) or match[1]
            if group in found:
                raise UserError(f"{file}: {found[group].name} is of the same split; name one of them as the data")
            found[group] = file
    return found
