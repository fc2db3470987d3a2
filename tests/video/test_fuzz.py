"""Damaged videos give frames, or one line that names them, within bounds of time and memory, and crash nothing.

Every case is a few changes, drawn from its seed and number, to a video in one of the containers, a picture, a frame of
a folder or a shard. They run in a process of their own, which reads as `vivit predict` does without --timeout; should
it end, another goes on. By hand, with more cases or one that failed:

    python tests/video/test_fuzz.py --count 20000 --seed 1
    python tests/video/test_fuzz.py --seed 1 --first 4711 --count 1
"""

import argparse
import ctypes
import faulthandler
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # if this file is run by hand

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from tests.support import encode, numbered  # noqa: E402
from tests.video.hostile import make_seeds, mutate  # noqa: E402
from tests.weights.test_fuzz import change_value  # noqa: E402
from vivit.data.pack import pack  # noqa: E402
from vivit.data.readers.listing import open_data  # noqa: E402
from vivit.data.scan import scan_file  # noqa: E402
from vivit.errors import UserError  # noqa: E402
from vivit.video.clips import ClipSpec, read_views  # noqa: E402
from vivit.video.source import VideoSource  # noqa: E402
from vivit.video.span import Span  # noqa: E402

COUNT, SEED = 2000, 0
SLICE = 5000  # cases for a process
WARM = 200  # cases of a process before its memory is noted
SECONDS, HUNG = 5.0, 30.0  # CPU seconds for a case, and when the process is ended
STUCK = 900.0  # seconds for a case that waits without computing, on a machine however busy
ALL = 400.0  # seconds for all cases of the test
LARGEST = 400 << 20  # bytes that a case may add
# The same if a fragment of an MP4 claims any number of frames: FFmpeg makes room for them, up to a bound of its own.
FRAGMENTED, LARGEST_FRAGMENTED = "fragmented.mp4", 1200 << 20
GROWTH = 64 << 20  # bytes that a process may keep
LINE = 1000  # characters; people do not read longer lines
SPEC = ClipSpec(num_frames=4, stride=2, size=(32, 32), resize=32)
SPANS: tuple[Span | None, ...] = (None, None, None, (0.2, 0.8), (0.5, 2.0), (1.1, 1.2))
SHARDS = ("packed", "shards")  # with an index and without
PICTURES = ("png", "jpg", "webp", "bmp", "tif", "ppm", "gif")


def test_damaged_videos_are_read_or_refused_in_bounds() -> None:
    command = [sys.executable, __file__, "--count", str(COUNT), "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ALL)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    # Changes that are never noticed, or always at once, would prove little.
    assert result["readable"] + result["refused"] == COUNT
    assert min(result["readable"], result["refused"]) > COUNT // 10


@dataclass(frozen=True)
class Target:
    """An honest file that is changed."""

    file: Path
    content: bytes
    folder: Path | None = None
    """Read this instead of the file: a folder of frames, or one of shards."""

    @property
    def place(self) -> Path:
        return self.folder or self.file


def make_files(place: Path) -> None:
    """Write the honest files: videos, pictures, folders of frames, shards with an index and without."""
    for name in ("videos", "pictures", "data"):
        (place / name).mkdir()
    videos = make_seeds(place / "videos", encode)
    pictures = [Image.fromarray(numbered(number)) for number in (11, 22, 33)]
    for kind in PICTURES:
        pictures[0].save(place / "pictures" / f"1.{kind}")
        if kind != "gif":
            folder = place / f"frames_{kind}"
            folder.mkdir()
            for number, picture in enumerate(pictures):
                picture.save(folder / f"{number}.{kind}")
    pictures[0].save(place / "pictures" / "moving.png", save_all=True, append_images=pictures[1:])
    pictures[0].save(place / "pictures" / "pages.tif", save_all=True, append_images=pictures[1:])
    for number, video in enumerate([video for video in videos if video.name != FRAGMENTED][:4]):
        of_class = place / "data" / "ab"[number % 2]
        of_class.mkdir(exist_ok=True)
        shutil.copy(video, of_class / f"{number}{video.suffix}")
    pack(open_data(place / "data"), place / "packed", workers=0)
    shutil.copytree(place / "packed", place / "shards", ignore=shutil.ignore_patterns("*.json"))


def targets(place: Path) -> list[Target]:
    singles = [Target(file, file.read_bytes()) for name in ("videos", "pictures") for file in (place / name).iterdir()]
    inside = list(place.glob("frames_*/1.*"))
    inside += [file for name in SHARDS for file in (place / name).iterdir()]
    return sorted([*singles, *(Target(file, file.read_bytes(), file.parent) for file in inside)], key=lambda t: t.file)


def changed(target: Target, rng: np.random.Generator) -> bytes:
    if target.file.suffix == ".json" and rng.random() < 0.7:
        index = change_value(random.Random(int(rng.integers(2**31))), json.loads(target.content))
        return json.dumps(index).encode()
    return mutate(target.content, rng)


def sources(target: Target, span: Span | None) -> Iterator[tuple[VideoSource, Span | None]]:
    """What to read, and the span to read of it: the given one of a video file."""
    if target.folder is not None and target.folder.name in SHARDS:
        yield from ((video.source, video.span) for video in open_data(target.folder).videos)
    else:
        yield target.place, span if target.file.parent.name == "videos" else None


def attempt(target: Target, rng: np.random.Generator) -> str:
    deeply, span = rng.random() < 0.1, SPANS[rng.integers(len(SPANS))]
    try:
        for source, wanted in sources(target, span):
            if deeply:
                scan_file(source, full=True)
            frames = read_views(source, SPEC, 2, 1, wanted).frames
            assert frames.shape == (2, 4, 3, 32, 32)
            assert frames.dtype == torch.uint8
    except UserError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= LINE, f"{len(message)} characters: {message[:LINE]}"
        assert message.startswith(str(target.place)), message
        assert len(message) > len(str(target.place)) + 5
        return "refused"
    return "readable"


def run(place: Path, seed: int, first: int, count: int) -> int:
    """Run these cases in this process; returns how many failed. The file `case` tells how far it is."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGPROF, chain=True)
    choices, done, failures = targets(place), {"readable": 0, "refused": 0}, 0
    largest, warm = 0, 0
    for number in range(first, first + count):
        (place / "case").write_text(json.dumps({"number": number, "failed": failures, "largest": largest, **done}))
        faulthandler.dump_traceback_later(STUCK, exit=True)
        signal.setitimer(signal.ITIMER_PROF, HUNG)
        rng = np.random.default_rng([seed, number])
        target = choices[number % len(choices)]
        target.file.write_bytes(changed(target, rng))
        started, before = time.process_time(), _peak(since_now=True)
        try:
            done[attempt(target, rng)] += 1
            seconds, memory = time.process_time() - started, _peak() - before
            largest = max(largest, memory)
            assert seconds <= SECONDS, f"{seconds:.1f} seconds"
            limit = LARGEST_FRAGMENTED if target.file.name == FRAGMENTED else LARGEST
            assert memory <= limit, f"{memory >> 20} MiB"
        except Exception:
            failures += 1
            print(f"case {number} of seed {seed}, {target.file.relative_to(place)}:\n{traceback.format_exc()}")
        target.file.write_bytes(target.content)
        (place / "shards" / "shards.json").unlink(missing_ok=True)
        if number - first == WARM:
            warm = _resident()
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _resident() - warm if warm else 0
    if grown > GROWTH:
        failures += 1
        print(f"cases {first} to {first + count - 1} of seed {seed} left {grown >> 20} MiB in memory")
    summary = {"number": first + count, "failed": failures, "largest": largest, "grown": grown, **done}
    (place / "case").write_text(json.dumps(summary))
    return failures


def _peak(since_now: bool = False) -> int:
    """The peak memory of this process in bytes, reset first if the system can do that."""
    if since_now and sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident() -> int:
    """Bytes in memory, without those that the allocator keeps for later."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def drive(place: Path, seed: int, first: int, count: int) -> int:
    """Run the cases in processes, print each end of one, and then the sum."""
    total = {"readable": 0, "refused": 0, "failed": 0, "crashed or hung": 0, "largest MiB": 0, "grown MiB": 0}
    end, started = first + count, time.monotonic()
    make_files(place)
    while first < end:
        many = min(SLICE, end - first)
        command = [sys.executable, __file__, "--inside", str(place), "--seed", str(seed)]
        cache = {"XDG_CACHE_HOME": str(place / "cache")}
        inside = subprocess.run(
            [*command, "--first", str(first), "--count", str(many)],
            capture_output=True,
            text=True,
            env=os.environ | cache,
        )
        print(inside.stdout, end="")
        case = json.loads((place / "case").read_text())
        if case["number"] < first + many:
            total["crashed or hung"] += 1
            how = f"signal {-inside.returncode}" if inside.returncode < 0 else f"exit code {inside.returncode}"
            print(f"case {case['number']} of seed {seed} ended its process ({how}):\n{inside.stderr[-4000:]}")
            case["number"] += 1
        first = case["number"]
        for name in ("readable", "refused", "failed"):
            total[name] += case[name]
        for name in ("largest", "grown"):
            total[f"{name} MiB"] = max(total[f"{name} MiB"], case.get(name, 0) >> 20)
        print(json.dumps({"seconds": round(time.monotonic() - started), "left": end - first, **total}), flush=True)
    return int(total["failed"] + total["crashed or hung"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is not None:
        return run(arguments.inside, arguments.seed, arguments.first, arguments.count)
    with tempfile.TemporaryDirectory() as place:
        return drive(Path(place), arguments.seed, arguments.first, arguments.count)


if __name__ == "__main__":
    sys.exit(main())
