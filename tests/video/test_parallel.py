"""Open, decode and close videos in all kinds of processes, in threads, and very often."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.support import encode
from vivit.video.clips import ClipSpec, read_views
from vivit.video.decode import Decoder

# Run in a separate process, so that nothing else allocates memory. Prints the cost of 300 further openings.
OPEN_OFTEN = """
import gc, os, sys
from pathlib import Path
from vivit.video.decode import open_video

def often(times):
    for _ in range(times):
        for path in sys.argv[2:]:
            with open_video(path, sys.argv[1]) as video:
                video.frames([5, 40], short_side=16)

def used():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

often(60)
# Objects that only the garbage collector would free count as leaked.
gc.collect()
gc.disable()
memory, files = used()
often(300)
print(used()[0] - memory, used()[1] - files)
"""


SPEC = ClipSpec(num_frames=4, stride=5, size=(32, 64), resize=32)


@pytest.fixture(params=["pyav", "torchcodec"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    if request.param == "torchcodec":
        try:
            import torchcodec.decoders  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            pytest.skip(f"torchcodec cannot be used: {str(error).strip().splitlines()[0]}")
        return "torchcodec"
    return "pyav"


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_processes_read_the_same(start: str, decoder: Decoder, tmp_path: Path) -> None:
    paths = [encode(tmp_path / name, 60) for name in ("a.mp4", "b.mkv")]
    # This process also used the decoder before forking.
    expected = [read_views(path, SPEC, 2, 1, None, decoder).frames for path in paths]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(start)) as pool:
        waiting = [pool.submit(read_views, path, SPEC, 2, 1, None, decoder) for path in paths * 3]
        for future, views in zip(waiting, expected * 3, strict=True):
            assert torch.equal(future.result(timeout=120).frames, views)


def test_threads_read_the_same(decoder: Decoder, tmp_path: Path) -> None:
    paths = [encode(tmp_path / name, 60) for name in ("a.mp4", "b.mkv")]
    expected = [read_views(path, SPEC, 2, 1, None, decoder).frames for path in paths]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda path: read_views(path, SPEC, 2, 1, None, decoder).frames, paths * 20)
        assert all(torch.equal(views, other) for views, other in zip(found, expected * 20, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory in use is asked of Linux")
def test_nothing_is_left_behind(decoder: Decoder, tmp_path: Path) -> None:
    paths = [encode(tmp_path / name, 60) for name in ("a.mp4", "b.mkv")]
    paths.append(encode(tmp_path / "c.avi", 60, codec="mpeg4"))
    printed = subprocess.run(
        [sys.executable, "-c", OPEN_OFTEN, decoder, *map(os.fspath, paths)], capture_output=True, text=True, check=True
    ).stdout
    megabytes, files = map(float, printed.split())
    # A frame takes 6 kB and a decoder hundreds: leaked in 900 openings, either would be many megabytes.
    assert megabytes < 4
    assert files == 0
