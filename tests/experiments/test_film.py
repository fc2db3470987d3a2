import subprocess
import sys
import time
from pathlib import Path

import psutil

MAKES_TWO = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from vivit.experiments.film import make_videos

@dataclass(frozen=True)
class Video:
    path: Path

def make(video):
    video.path.write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    # They are handed out eight at a time.
    make_videos([Video(Path(sys.argv[1]) / str(number)) for number in range(16)], make, workers=2)
"""


def test_processes_that_make_videos_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAKES_TWO)
    videos = tmp_path / "videos"
    parent = subprocess.Popen([sys.executable, str(script), str(videos)])
    try:
        while len(makers := [file.read_text() for file in videos.glob("*")]) < 2 or not all(makers):
            assert parent.poll() is None
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs([psutil.Process(int(pid)) for pid in makers if psutil.pid_exists(int(pid))], 60)
    for process in alive:
        process.kill()
    assert not alive
