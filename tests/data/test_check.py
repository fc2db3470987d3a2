"""Check data sets with faults that the tests put there."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from tests.support import REAL_CLIPS, encode, numbered, refused
from vivit.data import check as check_module
from vivit.data import scan as scan_module
from vivit.data.check import check
from vivit.data.check_report import bars, histogram
from vivit.data.look_alikes import look_alikes, thumbnails
from vivit.data.manifest import Manifest, Scan, data_hash, read_manifest
from vivit.data.readers.listing import open_data
from vivit.data.scan import scan_file, scan_files
from vivit.errors import UserError
from vivit.video.base import VideoInfo
from vivit.video.clips import ClipSpec
from vivit.video.source import VideoError, VideoSource
from vivit.video.span import Span


def textured(seed: int, frames: int, start: int = 0, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames of a camera moving over a random landscape, from `start` on: (48, 64, 3) uint8 each."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 30)))
    land = F.interpolate(coarse, (96, 320), mode="bicubic").clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()
    return [land[20 : 20 + size[0], 2 * (start + n) : 2 * (start + n) + size[1]] for n in range(frames)]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """number → a video of 30 frames at 25 frames per second. Do not write to it."""
    folder = tmp_path_factory.mktemp("clips")

    def video(number: int) -> Path:
        path = folder / f"{number}.mp4"
        return path if path.exists() else encode(path, textured(number, 30), options={"preset": "ultrafast"})

    return video


@pytest.fixture
def data(clip: Callable[[int], Path], tmp_path: Path) -> Path:
    """train/ with two classes of three clips, and val/ with one clip of each."""
    root = tmp_path / "data"
    for number in range(8):
        folder = root / ("train" if number < 6 else "val") / ("run", "jump")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip(number), folder / f"{number}.mp4")
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files read from now on. They are read in this process, because starting others is slow."""
    names: list[str] = []

    def scan_here(
        sources: Mapping[VideoSource, Sequence[Span]], *, full: bool, workers: int
    ) -> Iterator[tuple[VideoSource, Scan]]:
        for source, spans in sources.items():
            names.append(Path(str(source)).name)
            try:
                yield source, scan_file(source, full, spans)
            except VideoError as error:
                yield source, Scan(problem=str(error).removeprefix(f"{source}: "))

    monkeypatch.setattr(check_module, "scan_files", scan_here)
    return names


def run(data: Path, width: int = 80, **settings: Any) -> tuple[int, Manifest, str]:
    """Return the exit status, the manifest, and the printed text."""
    out = settings.setdefault("out", data.parent / "manifest.json")
    printed = io.StringIO()
    status = check(data, console=Console(file=printed, width=width), **settings)
    return status, read_manifest(out), printed.getvalue()


CLIP = ClipSpec(16, 2, (32, 32), 32, short="pad")


def by_name(manifest: Manifest) -> dict[str, Scan]:
    return {Path(record.name).name: record.scan for record in manifest.files}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("name", "codec", "reported", "container"),
    [
        ("a.mp4", "libx264", "h264", "mp4"),
        ("a.avi", "mpeg4", "mpeg4", "avi"),
        ("a.webm", "libvpx", "vp8", "webm"),
        ("disguised.avi", "libx264", "h264", "mov"),
    ],
)
def test_a_scan_tells_what_was_encoded(
    name: str, codec: str, reported: str, container: str, full: bool, tmp_path: Path
) -> None:
    path = encode(tmp_path / name.replace("disguised.avi", "plain.mp4"), 40, codec=codec, rate=20)
    path = path.rename(tmp_path / name)
    scan = scan_file(path, full)
    assert (scan.frames, scan.frame_rate, scan.width, scan.height) == (40, 20.0, 64, 32)
    assert scan.duration == pytest.approx(2.0, abs=0.002)
    assert (scan.codec, scan.container, scan.problem, scan.excess, scan.full) == (reported, container, "", "", full)


def test_a_full_scan_finds_damage_inside(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", textured(1, 60), options={"bf": "0", "g": "60"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = b"\xa5" * 400
    path.write_bytes(content)
    assert scan_file(path, False).problem == ""
    assert "damaged" in (problem := scan_file(path, True).problem) and "of 60 frames" in problem


def test_a_file_that_ends_before_its_container_says_is_found(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", textured(1, 75), container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])
    scan = scan_file(path, False)
    assert scan.excess.startswith("its container lists 75 frames, but ")
    path.write_bytes(whole[: len(whole) // 2])
    assert scan_file(path, False).problem.startswith("only its first ")

    short = encode(tmp_path / "a.avi", textured(1, 75), codec="mpeg4", options={"g": "5"})
    short.write_bytes(short.read_bytes()[: short.stat().st_size * 9 // 10])
    assert scan_file(short, False).excess.startswith("its container counts 75 frames, but it has about ")
    assert "counts 75 frames, but it has " in scan_file(short, True).excess


def test_a_decoder_that_hangs_or_crashes_is_ended_and_the_scan_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text(
        "import os, time\n"
        "from vivit.data import scan\n"
        "def scan_file(source, full, spans):\n"
        "    if source.name == 'crash.mp4':\n"
        "        os.abort()\n"
        "    if source.name == 'hang.mp4':\n"
        "        time.sleep(600)\n"
        "    return scan.scan_file(source, full)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import crashing  # type: ignore[import-not-found]

    crash, hang, empty = (data / "train/run" / name for name in ("crash.mp4", "hang.mp4", "empty.mp4"))
    for path in (crash, hang):
        shutil.copy(data / "train/run/0.mp4", path)
    empty.touch()
    good = [data / f"train/run/{number}.mp4" for number in (0, 2, 4)]
    monkeypatch.setattr(scan_module, "scan_file", crashing.scan_file)
    monkeypatch.setattr(scan_module, "TIMEOUT", 10.0)
    scans = dict(scan_files(dict.fromkeys([crash, good[0], hang, empty, *good[1:]], ()), full=False, workers=1))
    assert [scans[path].frames for path in good] == [30, 30, 30]
    assert scans[crash].problem == "its decoder crashed (signal 6)"
    assert scans[hang].problem == "took longer than 10 s to read"
    assert scans[empty].problem == "is empty"


def test_an_error_of_the_program_is_not_taken_for_one_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, timeout: float) -> None: ...
        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *error: object) -> None: ...
        def __call__(self, *arguments: object) -> Scan:
            raise RuntimeError("a bug")

    monkeypatch.setattr(scan_module, "IsolatedReader", Failing)
    with pytest.raises(RuntimeError, match="a bug"):
        list(scan_files(dict.fromkeys([Path("a.mp4"), Path("b.mp4")], ()), full=False, workers=2))


class Pictures:
    """A video of 40 frames that FFmpeg does not read; `broken` cannot be read."""

    info = VideoInfo(64, 48, 25.0, 1.6, 40, "png", 0)

    def __init__(self, source: Path, broken: int | None = None) -> None:
        self.source, self.broken, self.asked = source, broken, set[int]()

    def frames(self, indices: Sequence[int], short_side: int | None = None, size: object = None) -> torch.Tensor:
        if self.broken in indices:
            raise VideoError(self.source / f"{self.broken}.png", "is damaged")
        self.asked.update(indices)
        return torch.zeros(len(indices), 3, 48, 48, dtype=torch.uint8)

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *error: object) -> None: ...


def test_of_a_folder_of_frames_a_full_scan_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (None, 33):
        for full in (False, True):
            video = Pictures(tmp_path, broken)
            monkeypatch.setattr(scan_module, "open_video", lambda source, video=video: video)
            scan = scan_file(tmp_path, full)
            found = full and broken is not None
            assert (scan.frames, scan.width, scan.codec) == (40, 64, "png")
            assert scan.problem == ("33.png: is damaged" if found else "")
            assert found or (scan.container == "pictures" and video.asked.issuperset(range(40)) == full)


def test_a_data_set_without_faults(data: Path, read: list[str]) -> None:
    status, manifest, printed = run(data)
    assert status == 0
    assert sorted(read) == [f"{number}.mp4" for number in range(8)]
    assert manifest.hash == {split: data_hash(open_data(data).split(split)) for split in ("train", "val")}
    record = next(record for record in manifest.files if record.name == "val/jump/7.mp4")
    path = data / record.name
    assert (record.size, record.modified) == (path.stat().st_size, path.stat().st_mtime_ns)
    (video,) = record.videos
    assert (video.split, video.labels, video.span) == ("val", {"classes": ("jump",)}, None)
    assert not (manifest.leaks or manifest.duplicates or manifest.look_alikes or manifest.missing)
    assert "no problems found" in printed
    for words in ("64 x 48 (8)", "25 (8)", "h264 (8)", "mp4 (8)", manifest.hash["val"][:16]):
        assert words in printed


def test_a_sound_set_is_reported_as_such(read: list[str], tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "data" / ("run", "jump")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        encode(folder / f"{number}.mp4", textured(number, 70), options={"preset": "ultrafast"})
    for frames, words in (
        (35, "no problems found"),
        (36, "4 videos are shorter than a clip of 36 frames at a stride of 2"),
    ):
        status, _, printed = run(tmp_path / "data", clip=ClipSpec(frames, 2, (32, 32), 32), width=200)
        assert (status, words in printed) == (0, True)


def test_bytes_are_hashed_where_sizes_are_equal_and_all_of_them_by_a_full_check(data: Path, read: list[str]) -> None:
    shutil.copy(data / "train/run/0.mp4", data / "train/run/again.mp4")
    sizes = [path.stat().st_size for path in data.rglob("*.mp4")]
    _, manifest, _ = run(data)
    for record in manifest.files:
        digest = hashlib.sha256((data / record.name).read_bytes()).hexdigest()
        assert record.sha256 == (digest if sizes.count(record.size or 0) > 1 else "")
    assert sum(bool(record.sha256) for record in manifest.files) >= 2
    _, manifest, _ = run(data, full=True)
    for record in manifest.files:
        assert record.sha256 == hashlib.sha256((data / record.name).read_bytes()).hexdigest()


def test_duplicates_within_a_split_and_across_splits_are_told_apart(data: Path, read: list[str]) -> None:
    shutil.copy(data / "train/run/0.mp4", data / "train/run/again.mp4")
    assert run(data)[0] == 0
    shutil.copy(data / "train/run/2.mp4", data / "val/run/seen before.mp4")
    status, manifest, printed = run(data)
    assert status == 1
    assert manifest.leaks == (("train/run/2.mp4", "val/run/seen before.mp4"),)
    assert manifest.duplicates == (("train/run/0.mp4", "train/run/again.mp4"),)
    assert manifest.look_alikes == ()
    assert printed.index("1 leak: ") < printed.index("same bytes within a split")
    assert "train and val: train/run/2.mp4 = val/run/seen before.mp4" in printed


def test_one_content_with_two_labels_is_an_error_that_names_both(data: Path, read: list[str], tmp_path: Path) -> None:
    shutil.copy(data / "train/run/0.mp4", data / "train/jump/copy.mp4")
    (data / "val/jump/link.mp4").symlink_to("../run/6.mp4")
    shutil.copy(data / "train/run/2.mp4", data / "train/run/twice.mp4")
    fixed = tmp_path / "good.csv"
    status, manifest, printed = run(data, fix=fixed)
    assert status == 2
    assert "2 videos with two labels" in printed
    assert manifest.contradictions == (
        "train/jump/copy.mp4 is 'jump', but train/run/0.mp4 has the same content and is 'run'",
        "val/jump/link.mp4 is 'jump', but val/run/6.mp4 has the same content and is 'run'",
    )
    assert all(line in printed for line in manifest.contradictions)
    assert manifest.duplicates == (("train/run/2.mp4", "train/run/twice.mp4"),)
    assert "copy.mp4" not in fixed.read_text()
    assert "7 of 11 videos are listed" in printed
    # Where a video may have any number of labels, each file may have its own.
    rows = [f"{name},{label}" for name, label in (("train/run/0.mp4", "run"), ("train/jump/copy.mp4", "jump;run"))]
    several = data / "several.csv"
    several.write_text("\n".join(["path,labels", *rows]))
    assert not run(several)[1].contradictions


def test_a_clip_encoded_anew_looks_alike_and_others_do_not(data: Path, read: list[str]) -> None:
    shrunk = [picture.reshape(24, 2, 32, 2, 3).mean((1, 3)).astype(np.uint8) for picture in textured(3, 30)]
    encode(data / "val/jump/worse.avi", textured(3, 30), codec="mpeg4", options={"qmin": "12", "qmax": "12"})
    encode(data / "val/jump/smaller.mp4", shrunk, options={"crf": "30"})
    # The same landscape at another time; and black videos, which are all alike.
    encode(data / "val/jump/later.mp4", textured(3, 30, start=45))
    for name in ("black.mp4", "night.mp4"):
        encode(data / "train/jump" / name, [np.full((48, 64, 3), 16, np.uint8)] * (30 + len(name) % 2))
    status, manifest, printed = run(data)
    assert status == 0
    assert manifest.look_alikes == (("train/jump/3.mp4", "val/jump/smaller.mp4", "val/jump/worse.avi"),)
    assert "1 possible leak" in printed


def test_numbered_clips_look_alike_only_where_the_same_numbers_are_shown(tmp_path: Path) -> None:
    def video(name: str, first: int, **options: Any) -> Scan:
        return scan_file(encode(tmp_path / name, [numbered(first + n) for n in range(40)], **options), False)

    scans = [video("a.mp4", 0), video("b.mp4", 60), video("c.avi", 0, codec="mpeg4"), video("d.mp4", 120)]
    assert look_alikes([scan.thumbnails for scan in scans], [2.0] * 4) == [[0, 2]]
    assert look_alikes([scan.thumbnails for scan in scans], [2.0, 2.0, 2.2, 2.0]) == []


def test_look_alikes_are_those_of_a_comparison_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 3, 3, 12, 12))
    noisy = np.clip(base[rng.integers(0, 60, 140)] + rng.integers(-12, 13, (140, 3, 3, 12, 12)), 0, 255)
    # In some, only the last picture differs, which is tolerated; in others, two pictures differ.
    noisy[:30, 2] = noisy[:30, 2].transpose(0, 1, 3, 2)
    noisy[30:60, 1:] = noisy[30:60, 1:].transpose(0, 1, 2, 4, 3)
    frames = torch.from_numpy(np.concatenate([base, noisy]).astype(np.uint8))
    red, green, blue = frames.double().unbind(2)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).round().numpy()  # (videos, 3, 12, 12)
    durations = rng.choice([3.0, 3.1, 5.0], len(frames)).tolist()

    group = list(range(len(grey)))
    for one in range(len(grey)):
        for other in range(one):
            near = [np.sqrt(np.mean((grey[one, k] - grey[other, k]) ** 2)) <= 5.0 for k in range(3)]
            long = max(durations[one], durations[other])
            if sum(near) >= 2 and abs(durations[one] - durations[other]) <= 0.1 + 0.02 * long:
                group = [group[other] if each == group[one] else each for each in group]
    expected = sorted(sorted(i for i, each in enumerate(group) if each == name) for name in set(group))
    expected = [members for members in expected if len(members) > 1]
    assert len(expected) > 20
    assert look_alikes([thumbnails(each) for each in frames], durations) == expected


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="the real clips are not beside the checkout")
def test_real_clips_are_told_from_each_other_and_recognised_anew(tmp_path: Path) -> None:
    paths = sorted(REAL_CLIPS.iterdir())
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    again = tmp_path / "again.mp4"
    source = next(path for path in paths if path.name == "goat.mp4")
    arguments = ["-v", "error", "-i", str(source), "-vf", "scale=160:96", "-crf", "33", "-preset", "veryfast"]
    os.spawnv(os.P_WAIT, ffmpeg, [ffmpeg, *arguments, str(again)])
    scans = [scan_file(path, False) for path in [*paths, again]]
    assert [scan.problem for scan in scans] == [""] * len(scans)
    groups = look_alikes([scan.thumbnails for scan in scans], [scan.duration or 0.0 for scan in scans])
    assert groups == [[paths.index(source), len(paths)]]


def test_unreadable_files_are_all_in_the_manifest_and_ten_on_the_terminal(data: Path, read: list[str]) -> None:
    for number in range(13):
        (data / f"train/run/bad{number:02d}.mp4").write_text("<html>not found</html>")
    status, manifest, printed = run(data)
    assert status == 1
    assert "13 of 21 files cannot be read" in printed and "and 3 more, in the manifest" in printed
    assert [f"bad{number:02d}.mp4" in printed for number in range(13)] == [True] * 10 + [False] * 3
    problems = {name: scan.problem for name, scan in by_name(manifest).items() if scan.problem}
    assert sorted(problems) == [f"bad{number:02d}.mp4" for number in range(13)]
    assert set(problems.values()) == {"not a readable video (invalid data found when processing input)"}
    # They have the same bytes, which is reported elsewhere.
    assert manifest.duplicates == ()


def test_spans_count_as_one_file_and_those_past_its_end_are_reported(
    data: Path, read: list[str], tmp_path: Path
) -> None:
    rows = [
        ["path", "label", "split", "start", "end"],
        *(["train/run/0.mp4", "a", "train", f"{n / 10}", f"{n / 10 + 0.2}"] for n in range(5)),
        ["train/run/0.mp4", "b", "train", "1.0", "1.5"],
        ["train/run/0.mp4", "b", "train", "700", "900"],
        ["val/run/6.mp4", "b", "val", "", ""],
        ["val/jump/7.mp4", "a", "val", "0", "1.25"],
    ]
    _write_csv(data / "list.csv", rows)
    status, manifest, printed = run(data / "list.csv", clip=CLIP, fix=tmp_path / "fixed.csv")
    assert "8 of 9 videos are listed" in printed
    assert "900" not in (tmp_path / "fixed.csv").read_text()
    assert (status, sorted(read)) == (1, ["0.mp4", "6.mp4", "7.mp4"])
    assert [len(record.videos) for record in manifest.files] == [7, 1, 1]
    # 30 frames at 25 per second end at 1.2 s; rounding by less than a tenth is tolerated.
    first, second, third = manifest.files[0].remarks
    assert first.startswith("the span 700 to 900 s starts after the end of the video at 1.2 s")
    assert "milliseconds" in first
    assert second == "1 of 6 spans, such as 1 to 1.5 s, but it ends at 1.2 s"
    assert third == "6 of 6 spans, such as 0 to 0.2 s, with 5 frames"
    assert manifest.files[1].remarks == ("0 to 1.25 s, with 30 frames",)
    assert "1 span is not in its file" in printed
    assert "1 span ends after its file" in printed
    assert "8 videos are shorter than a clip of 16 frames at a stride of 2 (31 frames): clips repeat" in printed


def test_listed_files_that_are_not_there_are_told(data: Path, read: list[str]) -> None:
    names = ["train/run/0.mp4", "train/jump/1.mp4", "val/run/6.mp4", "val/jump/7.mp4", "val/jump/gone.mp4"]
    rows = [[name, name.split("/")[1], name.split("/")[0]] for name in names]
    _write_csv(data / "list.csv", [["path", "label", "split"], *rows])
    status, manifest, printed = run(data / "list.csv")
    assert (status, manifest.missing) == (1, {"val": (str(data / "val/jump/gone.mp4"),)})
    assert "1 listed file not there" in printed and "gone.mp4" in printed


def test_classes_that_a_split_lacks_are_named(data: Path, read: list[str]) -> None:
    shutil.rmtree(data / "val/jump")
    _, _, printed = run(data)
    line = next(line for line in printed.splitlines() if "not in val" in line)
    assert line.split() == ["not", "in", "val", "1:", "jump"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_fits_its_width_and_shows_nothing_that_a_name_could_do_to_a_terminal(
    width: int, data: Path, read: list[str]
) -> None:
    (data / "train/run/\x1b[31mred\n.mp4").touch()
    for number in range(20):
        folder = data / f"train/a class with quite a long name that is number {number}"
        folder.mkdir()
        shutil.copy(data / "train/run/0.mp4", folder / "[bold].mp4")
    printed = run(data, width)[2]
    table = printed.split("\n\n")[0].splitlines()[1:]
    assert max(map(len, table)) <= width
    assert "\x1b" not in printed and r"train/run/\x1b[31mred\n.mp4: is empty" in printed
    assert "[bold].mp4" in printed


def test_a_second_check_reads_what_has_changed(data: Path, read: list[str]) -> None:
    bad = data / "train/run/bad.mp4"
    bad.touch()
    first = run(data)[1]
    assert len(read) == 9
    read.clear()
    assert run(data)[1] == first
    assert read == ["bad.mp4"]  # that it could not be read may have been the network's fault

    read.clear()
    shutil.copy(data / "train/run/0.mp4", bad)
    os.utime(data / "train/run/2.mp4", ns=(1, 1))
    (data / "train/run/4.mp4").unlink()
    manifest = run(data)[1]
    assert sorted(read) == ["2.mp4", "bad.mp4"]
    assert "4.mp4" not in by_name(manifest)
    assert manifest.duplicates == (("train/run/0.mp4", "train/run/bad.mp4"),)

    read.clear()
    assert len(by_name(run(data, full=True)[1])) == len(read) == 8
    read.clear()
    run(data)
    run(data, full=True)
    assert read == []


def test_a_stopped_check_goes_on(data: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check_module.scan_files

    def stopped(
        sources: Mapping[VideoSource, Sequence[Span]], *, full: bool, workers: int
    ) -> Iterator[tuple[VideoSource, Scan]]:
        for number, found in enumerate(whole(sources, full=full, workers=workers)):
            if number == 5:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(check_module, "scan_files", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(data)
    kept = data.parent / "manifest.json.unfinished"
    assert not (data.parent / "manifest.json").exists()
    with kept.open("a") as file:
        file.write('{"name": "train/run/0.mp4", "siz')  # as a power cut leaves it
    known = read[:5]
    read.clear()
    monkeypatch.setattr(check_module, "scan_files", whole)
    status, manifest, _ = run(data)
    assert sorted(read + known) == [f"{number}.mp4" for number in range(8)]
    assert (status, len(manifest.files), kept.exists()) == (0, 8, False)
    read.clear()
    assert run(data, out=data.parent / "anew.json")[1] == manifest


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_the_check_goes_on(data: Path, read: list[str], tmp_path: Path) -> None:
    refused(lambda: run(data, out=Path("/dev/full")), "/dev/full: is not a file", "--out")
    unfinished = tmp_path / "full.json.unfinished"
    unfinished.symlink_to("/dev/full")
    refused(
        lambda: run(data, out=tmp_path / "full.json"), r"full\.json\.unfinished: not written \(No space left", "--out"
    )
    assert not (tmp_path / "full.json").exists()
    refused(lambda: run(data, out=Path("/dev/full")), "/dev/full: is not a file; choose another with --out")
    unfinished.unlink()
    unfinished.write_bytes(b"\xff\xfe\n" + b"[" * 10**5 + b"\nnull\n")
    assert run(data, out=tmp_path / "full.json")[0] == 0


def test_the_manifest_lies_in_the_cache_and_not_with_the_data(
    data: Path, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(data.rglob("*"))
    check(data, console=Console(file=io.StringIO()))
    (manifest,) = (tmp_path / "cache").rglob("*.json")
    content = manifest.read_bytes()
    read.clear()
    check(str(data) + "/", console=Console(file=io.StringIO()))
    assert (read, manifest.read_bytes(), sorted(data.rglob("*"))) == ([], content, before)
    _write_csv(data / "list.csv", [["path", "label"], *([f"train/run/{n}.mp4", f"{n % 4}"] for n in (0, 2, 4))])
    shutil.copy(data / "train/run/0.mp4", data / "train/run/8.mp4")
    check(data / "list.csv", console=Console(file=io.StringIO()))
    (other,) = set((tmp_path / "cache").rglob("*.json")) - {manifest}
    assert read_manifest(other).files[0].name == "train/run/0.mp4"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused(lambda: check(data, console=Console(file=io.StringIO())), "file/vivit/manifests: cannot create")


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def content(data: Path, split: str) -> tuple[Any, list[tuple[Any, ...]]]:
    """The labels of a split, and its videos in order with their labels and spans."""
    videos = open_data(data).split(split)
    rows = [
        (os.path.realpath(str(video.source)), tuple(sorted(video.labels.items())), video.span)
        for video in videos.videos
    ]
    return videos.labels, sorted(rows, key=repr)


def test_the_list_has_the_readable_videos_of_held_out_splits_too(
    clip: Callable[[int], Path], read: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for first, name in enumerate(("run, fast", "jump", 'a "leap"')):
        (data / name).mkdir(parents=True)
        for number in range(6):
            shutil.copy(clip(6 * first + number), data / name / f"{name} {number}.mp4")
    train, val = (content(data, split) for split in ("train", "val"))
    bad = [train[1][0][0], val[1][0][0]]
    for path in bad:
        Path(path).write_bytes(b"no video")
    (tmp_path / "lists").mkdir()
    fixed = tmp_path / "lists/clean.csv"
    status, _, printed = run(data, fix=fixed)
    assert status == 1 and "16 of 18 videos are listed in" in printed
    for split, (classes, rows) in (("train", train), ("val", val)):
        assert content(fixed, split) == (classes, [row for row in rows if row[0] not in bad])
    assert not any(os.path.isabs(row["path"]) for row in csv.DictReader(fixed.open()))
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name} moved")
    assert data_hash(open_data(moved / "lists/clean.csv").split("val")) == data_hash(open_data(fixed).split("val"))


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        (("verb", "noun"), (("cut", "onion"), ("open", "door, front"))),
        (("labels",), (("run; jump",), ("",))),
        (("labels",), (("['it''s', \"so\"]".replace("''", "\\'"),), ("run",))),
        (("label",), (("3",), ("11",))),
    ],
)
def test_the_list_keeps_heads_several_labels_and_spans(
    columns: Sequence[str], cells: Sequence[Sequence[str]], data: Path, read: list[str]
) -> None:
    (data / "bad.mp4").touch()
    rows = [
        ["train/run/0.mp4", *cells[0], "train", "0.1", "0.7000000001"],
        ["train/run/0.mp4", *cells[1], "train", "0.7000000001", "1.2"],
        ["train/jump/1.mp4", *cells[1], "train", "", ""],
        ["val/run/6.mp4", *cells[0], "val", "", ""],
        ["val/jump/7.mp4", *cells[1], "test", "0", "1"],
    ]
    bad = [["bad.mp4", *cells[0], "val", "0", "1"]]
    header = ["path", *columns, "split", "start", "end"]
    _write_csv(data / "good.csv", [header, *rows])
    _write_csv(data / "all.csv", [header, *rows[:3], *bad, *rows[3:]])
    run(data / "all.csv", fix=data / "fixed.csv")
    for split in ("train", "val", "test"):
        assert content(data / "fixed.csv", split) == content(data / "good.csv", split)


@pytest.mark.parametrize("name", ["run;walk", " run", "[run]"])
def test_a_name_that_a_list_cannot_hold_is_said(name: str, data: Path, read: list[str], tmp_path: Path) -> None:
    for split in ("train", "val"):
        (data / split / "run").rename(data / split / name)
    fixed = tmp_path / "fixed.csv"
    if name == "[run]":  # a list can hold it
        assert run(data, fix=fixed)[0] == 0
        return
    refused(
        lambda: run(data, fix=fixed), r"train/.*run.*/0\.mp4: cannot be in a list with the label .*run", "fixed.csv"
    )
    assert not fixed.exists()


def test_a_file_name_that_a_list_cannot_hold_is_said(data: Path, read: list[str], tmp_path: Path) -> None:
    (data / "val/jump/7.mp4").rename(data / "val/jump/7.mp4 ")
    shutil.copy(data / "val/run/6.mp4", data / "val/jump" / os.fsdecode(b"\xff.mp4"))
    refused(lambda: run(data, fix=tmp_path / "fixed.csv"), r"val/jump/.*mp4.*: cannot be in a list", "fixed.csv")


def test_mistakes_are_one_line_before_anything_is_read(data: Path, read: list[str], tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("of the user")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"annotations": []}))
    mistakes: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "none", {}, "none: no such file or folder"),
        (data, {"workers": 0}, "workers: 0"),
        (data, {"fix": there}, r"there\.csv: exists already"),
        (data, {"fix": tmp_path / "list.txt"}, r"list\.txt: the list is written as \.csv"),
        (data, {"fix": tmp_path / "none/list.csv"}, "none: no such folder"),
        (data, {"out": other}, r"other\.json: not a manifest"),
        (data, {"out": tmp_path / "none/manifest.json"}, r"none/manifest\.json: cannot be written \(No such file"),
        (data, {"out": data}, "data: "),
    ]
    for path, settings, message in mistakes:
        with pytest.raises(UserError, match=message) as caught:
            check(path, console=Console(file=io.StringIO()), **settings)
        assert "\n" not in str(caught.value)
    assert read == []
    assert (there.read_text(), json.loads(other.read_text())) == ("of the user", {"annotations": []})


def test_bars_and_histograms_by_hand() -> None:
    assert bars([8, 4, 1, 0]) == "█▅▂ "
    assert bars([0, 0]) == "  "
    # Each bar is the mean of two of the 48 values.
    assert bars([n // 2 for n in range(48)])[0] == " " and len(bars(list(range(48)))) == 24
    line = histogram([0.0, 0.0, 0.0, 0.0, 24.0])
    assert (line[0], line[-1], line[1:-1].strip(), len(line)) == ("█", "▃", "", 24)
    assert histogram([2.0, 2.0]) == ""
