"""Hours of video through the commands for long videos: their time, and whether memory grows. Linux only.

    .venv/bin/python -m benchmarks.long_videos [--hours 1,2] [--ways timeline,stream,extract,index,search] [--threads 1]

A scene of a minute at 320 × 240 and 30 frames a second is repeated by copying its packets. The model is the package's.
"timeline" is `vivit timeline FILE`; "stream" is `vivit stream - < FILE`, which takes the frames one by one as from a
camera, but as fast as it can. "index" indexes the video, and "search" queries that index with the whole video. Each
command runs in its own process. "early" is its memory after a quarter of its time, "late" the most in the last quarter.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import cyclopts

from benchmarks import harness
from benchmarks.videos import FOLDER, generated
from vivit.video.decode import open_video

WAYS = {
    "timeline": ("timeline", "FILE", "--json"),
    "stream": ("stream", "-", "--json"),
    "extract": ("extract", "FILE", "--out", "OUT/features.npy"),
    "index": ("index", "ALONE", "--out", "OUT/index"),
    "search": ("search", "OUT/index", "FILE"),
}
MINUTE = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


def repeated(path: Path, times: int, out: Path) -> Path:
    """A file that repeats another one this many times, by copying its packets."""
    with av.open(str(out), "w") as copy:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(path)) as container:
                original = container.streams.video[0]
                stream = stream or copy.add_stream_from_template(original)
                length = original.duration or 0
                for packet in container.demux(original):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    copy.mux(packet)
                offset += length
    return out


def watch(words: list[str], video: Path, threads: int, every: float) -> dict[str, Any]:
    """Run a command with the video on stdin: wall and CPU seconds, lines printed, bytes of memory over time."""
    began, held, peak, ticks = time.monotonic(), [], 0, 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as out, open(video, "rb") as stdin:
        process = subprocess.Popen([sys.executable, "-m", "vivit", *words], stdin=stdin, stdout=out, env=environment)
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                fields = dict(line.split(":", 1) for line in status.splitlines())
                numbers = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                held.append(int(fields["VmRSS"].split()[0]) * 1024)
                peak = max(peak, int(fields["VmHWM"].split()[0]) * 1024)
                ticks = int(numbers[11]) + int(numbers[12])  # in user and in kernel mode
            except (OSError, KeyError):  # the process has ended
                continue
            time.sleep(every)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}")
        out.seek(0)
        lines = sum(1 for _ in out)
    memory = {"early": held[len(held) // 4], "late": max(held[-len(held) // 4 :]), "peak": peak}
    return {"clock": time.monotonic() - began, "processor": ticks / TICKS, "lines": lines, **memory}


def main(
    hours: str = "1,2",
    ways: str = ",".join(WAYS),
    threads: int = 1,
    piece: float = MINUTE,
    clip: Path | None = None,
    every: float = 0.5,
    folder: Path = FOLDER,
    out: Path = harness.RESULTS / "long_videos.json",
) -> None:
    """Measure, and add to the record; `benchmarks.tables` makes the table.

    Args:
        hours: lengths of the videos, separated by commas.
        ways: keys of WAYS, separated by commas.
        threads: of PyTorch.
        piece: seconds of the scene that is repeated.
        clip: another video to repeat.
        every: seconds between memory readings.
        folder: where the videos are, or are made if missing.
    """
    for length in map(float, hours.split(",")):
        video = folder / f"{length:g}h.mp4"
        if not video.exists():
            scene = clip or generated("240", folder, piece)
            with open_video(scene) as opened:
                times = round(length * 3600 / opened.info.duration)
            repeated(scene, times, folder / "making.mp4").rename(video)
        with open_video(video) as opened:
            seconds = opened.info.duration
        with tempfile.TemporaryDirectory() as made:
            alone = Path(made) / "alone"
            alone.mkdir()
            (alone / video.name).symlink_to(video.absolute())
            places = {"FILE": video, "ALONE": alone, "OUT": Path(made)}
            for way in ways.split(","):
                _add(
                    out, threads, {"way": way, "seconds": seconds, **watch(_words(way, places), video, threads, every)}
                )


def _words(way: str, places: dict[str, Path]) -> list[str]:
    """A command, with its names in capitals replaced by paths."""
    return [str(Path(*(places.get(part, part) for part in word.split("/")))) for word in WAYS[way]]


def _add(out: Path, threads: int, row: dict[str, Any]) -> None:
    """Add a row to the record; rows of other commands and lengths, perhaps measured at the same time, stay."""
    of = row["way"], row["seconds"]
    others = [other for other in harness.read(out)["values"]["rows"] if (other["way"], other["seconds"]) != of]
    rows = sorted([*others, row], key=lambda row: (row["way"], row["seconds"]))
    harness.write(out, {"task": {"size": "320x240", "threads": threads}, "rows": rows}, packages=["av"])


if __name__ == "__main__":
    cyclopts.run(main)
