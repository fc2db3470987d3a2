"""Compare isolated calls with the same calls here, and try functions that hang, crash and use much memory."""

import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.support import encode
from vivit.data.datasets import LabelledVideo
from vivit.errors import UserError
from vivit.video.clips import ClipSpec, read_views
from vivit.video.decode import open_video, read_here
from vivit.video.isolated import IsolatedReader
from vivit.video.source import VideoError

ROOT = Path(__file__).resolve().parents[2]
FILE = Path("folder/some.mp4")
SPEC = ClipSpec(num_frames=4, stride=2, size=(32, 32), resize=32)


@pytest.fixture(autouse=True, scope="module")
def _these_functions_can_be_imported() -> Iterator[None]:
    """Make this module importable for the isolated process, which has the same search path."""
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def reader(_these_functions_can_be_imported: None) -> Iterator[IsolatedReader]:
    with IsolatedReader(timeout=60, memory=1 << 30) as reader:
        yield reader


def random_frames(path: Path, rng: np.random.Generator) -> Tensor:
    with open_video(path) as video:
        return video.frames(rng.integers(0, 60, 4).tolist())


def process_of(path: Path) -> int:
    return os.getpid()


def sleep(path: Path, seconds: float) -> None:
    time.sleep(seconds)


def note_and_sleep(path: Path, note: Path, seconds: float) -> None:
    note.touch()
    time.sleep(seconds)


def crash(path: Path, number: int = signal.SIGSEGV) -> None:
    os.kill(os.getpid(), number)


def swell(path: Path, way: str, size: int) -> int:
    if way == "numpy":
        return int(np.ones(size, np.uint8)[-1])
    if way == "torch":
        return int(torch.ones(size, dtype=torch.uint8)[-1])
    return len(b"x" * size)


def pixels(path: Path, shape: tuple[int, ...]) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.uint8).reshape(shape)


def unusual(path: Path) -> tuple[object, ...]:
    grid = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    return grid.permute(2, 0, 1), grid[0, ::2], torch.empty(0, 5, dtype=torch.uint8), {"a": torch.arange(3.0)}, [path]


def fail(path: Path, kind: str) -> None:
    if kind == "video":
        raise VideoError(path, "is empty")
    if kind == "user":
        raise UserError("fps: give a number")
    if kind == "bug":
        raise KeyError("a mistake of ours")
    raise _Unpicklable("first", "second")


class _Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def write_to_both_outputs(path: Path) -> None:
    os.write(1, b"what a decoder says\n")
    os.write(2, b"what a decoder warns of\n")


def is_gone(process: int) -> bool:
    """Whether the process has ended, even if nobody has waited for it yet."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return state[0] == "Z" and int(state[17]) <= 1  # with all its threads
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_clips_are_those_read_here(reader: IsolatedReader, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", 60)
    views = reader(read_views, path, SPEC, 3, 3).frames
    assert views.dtype == torch.uint8
    assert torch.equal(views, read_views(path, SPEC, 3, 3).frames)
    for seed in range(4):
        clip = reader(random_frames, path, np.random.default_rng(seed))
        assert torch.equal(clip, random_frames(path, np.random.default_rng(seed)))


def test_tensors_of_any_layout_come_back_equal(reader: IsolatedReader) -> None:
    for returned, expected in zip(reader(unusual, FILE), unusual(FILE), strict=True):
        if isinstance(expected, Tensor):
            assert isinstance(returned, Tensor)
            assert torch.equal(returned, expected)
            returned += 1
        else:
            assert str(returned) == str(expected)


def test_large_clip_comes_back_whole_and_may_be_written_to(reader: IsolatedReader) -> None:
    shape = (12, 32, 3, 112, 112)
    clip = reader(pixels, FILE, shape)
    assert torch.equal(clip, pixels(FILE, shape))
    clip.zero_()
    assert torch.equal(reader(pixels, FILE, shape), pixels(FILE, shape))


def test_errors_are_those_of_the_function(reader: IsolatedReader) -> None:
    before = reader(process_of, FILE)
    with pytest.raises(VideoError, match=r"^folder/some\.mp4: is empty$"):
        reader(fail, FILE, "video")
    with pytest.raises(UserError, match=r"^fps: give a number$") as user:
        reader(fail, FILE, "user")
    assert type(user.value) is UserError
    with pytest.raises(KeyError) as bug:
        reader(fail, FILE, "bug")
    assert "in fail" in bug.value.__notes__[0]
    with pytest.raises(RuntimeError, match="_Unpicklable: first and second"):
        reader(fail, FILE, "unpicklable")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        reader(lambda path: None, FILE)
    assert reader(process_of, FILE) == before != os.getpid()


def test_error_of_a_labelled_video_names_its_file(reader: IsolatedReader, tmp_path: Path) -> None:
    video = LabelledVideo(FILE, {"classes": ("a",)})
    with pytest.raises(VideoError, match=r"^folder/some\.mp4: its decoder crashed \(signal 11\)$"):
        reader(crash, video)  # type: ignore[arg-type]


def test_a_killed_process_is_not_called_a_crash(reader: IsolatedReader) -> None:
    """Systems short of memory kill."""
    with pytest.raises(VideoError, match=r"^folder/some\.mp4: the process that read it was killed .* enough memory\?$"):
        reader(crash, FILE, signal.SIGKILL)


@pytest.mark.parametrize("way", ["numpy", "torch"])
def test_too_little_memory_here_is_an_error_of_the_video(way: str) -> None:
    with pytest.raises(VideoError, match=r"^folder/some\.mp4: takes more memory to read than there is$"):
        read_here(swell, FILE, way, 1 << 50)


def test_after_a_timeout_or_a_crash_the_next_call_works() -> None:
    reader = IsolatedReader(timeout=60)
    processes = [reader(process_of, FILE)]
    reader.timeout = 0.5
    with pytest.raises(VideoError, match=r"^folder/some\.mp4: took longer than 0\.5 s to read$"):
        reader(sleep, FILE, 600.0)
    reader.timeout = 60
    processes.append(reader(process_of, FILE))
    os.kill(processes[-1], signal.SIGKILL)  # between two calls
    wait_until(lambda: is_gone(processes[-1]))
    processes.append(reader(process_of, FILE))
    assert len(set(processes)) == 3
    assert not is_gone(processes[-1])
    del reader
    wait_until(lambda: all(map(is_gone, processes)))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
@pytest.mark.parametrize("way", ["numpy", "torch", "python"])
def test_memory_is_limited(way: str, reader: IsolatedReader) -> None:
    before = reader(process_of, FILE)
    with pytest.raises(VideoError, match=r"^folder/some\.mp4: takes more memory to read than the limit of 1 GiB$"):
        reader(swell, FILE, way, 3 << 30)
    assert reader(swell, FILE, way, 100 << 20) in (1, 100 << 20)
    assert reader(process_of, FILE) == before


def open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def own_state(path: Path) -> tuple[int, int, int]:
    """Open files, threads, and peak memory in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return open_files(os.getpid()), threading.active_count(), peak


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc lists")
def test_300_calls_leave_nothing_behind(reader: IsolatedReader) -> None:
    def state() -> tuple[object, ...]:
        # Other work on the machine has shared memory of its own: the process's number is part of the name.
        both = {str(os.getpid()), str(reader(process_of, FILE))}
        shared = [name for name in os.listdir("/dev/shm") if both & set(name.split("_"))]
        return open_files(os.getpid()), threading.active_count(), len(shared), reader(own_state, FILE)[:2]

    shape = (4, 3, 224, 224)
    kept = [reader(pixels, FILE, shape)]
    before, peak = state(), reader(own_state, FILE)[2]
    for number in range(300):
        clip = reader(pixels, FILE, shape)
        if number % 3 == 0:
            with pytest.raises(VideoError):
                reader(fail, FILE, "video")
        if number % 10 == 0:
            kept.append(clip)
    assert state() == before
    assert reader(own_state, FILE)[2] - peak < 8 << 20
    assert all(torch.equal(clip, kept[0]) for clip in kept)


def test_output_of_a_decoder_does_no_harm(reader: IsolatedReader, capfd: pytest.CaptureFixture[str]) -> None:
    reader(write_to_both_outputs, FILE)
    assert reader(pixels, FILE, (2, 2)).tolist() == [[0, 1], [2, 3]]
    assert capfd.readouterr().err == ""


class _Isolated(Dataset[Tensor]):
    """Reads in an isolated process of the worker, which also hangs and crashes."""

    def __init__(self, reader: IsolatedReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        if index == 1:
            try:
                self.reader(crash, FILE)
            except VideoError as error:
                assert "signal 11" in str(error)
        reading = self.reader(process_of, FILE)
        return torch.tensor([index, os.getpid(), reading])


def test_works_in_workers_of_a_data_loader_which_are_daemonic() -> None:
    with IsolatedReader(timeout=60) as reader:
        here = reader(process_of, FILE)
        loader = DataLoader(_Isolated(reader), batch_size=None, num_workers=1, multiprocessing_context="fork")
        rows = torch.stack(list(loader))
        assert reader(process_of, FILE) == here  # the worker that was forked off left it alone
    assert rows[:, 0].tolist() == [0, 1, 2, 3]
    workers, readers = set(rows[:, 1].tolist()), set(rows[:, 2].tolist())
    assert not {os.getpid(), here} & (workers | readers)
    assert not workers & readers
    assert len(readers) == 2  # one before the crash and one after it
    wait_until(lambda: all(map(is_gone, readers)))


def test_a_pickled_reader_keeps_its_limits_and_starts_its_own_process(reader: IsolatedReader) -> None:
    reader(process_of, FILE)
    again = pickle.loads(pickle.dumps(reader))
    assert (again.timeout, again.memory) == (60, 1 << 30)
    again.close()  # what it has not started
    assert reader(pixels, FILE, (2,)).tolist() == [0, 1]


def test_threads_with_readers_of_their_own_and_one_for_all(reader: IsolatedReader) -> None:
    threads: list[int] = []

    def read(number: int) -> tuple[IsolatedReader, int, list[int]]:
        threads.append(threading.get_native_id())
        own = IsolatedReader(timeout=60)
        return own, own(process_of, FILE), reader(pixels, FILE, (number, 7)).flatten().tolist()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(read, [1, 2]))
    # A process must not end with the thread that started it.
    wait_until(lambda: not any(Path(f"/proc/self/task/{thread}").exists() for thread in threads))
    for own, process, _ in results:
        assert own(process_of, FILE) == process
        own.close()
    assert results[0][1] != results[1][1]
    assert [values for *_, values in results] == [list(range(7)), list(range(14))]


CALLER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.video.test_isolated import *
reader = IsolatedReader(timeout=60)
print(reader(process_of, FILE), flush=True)
reader(note_and_sleep, FILE, Path(sys.argv[2]), 600.0)
"""


def test_process_ends_with_its_caller_in_the_middle_of_a_call(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER, str(ROOT), str(tmp_path / "note")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        process = int(caller.stdout.readline())
        wait_until((tmp_path / "note").exists)
        caller.kill()
        wait_until(lambda: is_gone(process))
