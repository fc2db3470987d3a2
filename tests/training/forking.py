"""Starts `python -m vivit` by fork, from one process that has imported what takes seconds: a run starts at once.

Run as a module this is that process. It forks a keeper for each request, and the keeper forks the command, in as many
processes as asked for; as under torchrun, when one of them fails the others are told to end.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

IMPORTED = ("torch._dynamo", "torch.utils.tensorboard", "vivit.report.run_page", "vivit.training.train")
HOOK = Path(__file__).parent / "hold" / "sitecustomize.py"


class Forked:
    """The command in one process or several, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self, arguments: list[str], environment: dict[str, str], processes: int, largest_file: int, folder: Path
    ) -> None:
        """Start it. No file may grow beyond `largest_file` bytes, -1 for any; its output goes to files in `folder`."""
        self.returncode: int | None = None
        self._folder = Path(mkdtemp(prefix="forked-", dir=folder))
        request = {
            "arguments": arguments,
            "environment": environment,
            "processes": processes,
            "largest_file": largest_file,
            "folder": str(self._folder),
            "cwd": os.getcwd(),
        }
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())
        """Of the first process, and the number of the group of all."""

    def poll(self) -> int | None:
        status = self._folder / "status"
        if self.returncode is None and status.exists():
            self.returncode = int(status.read_text())
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"still there after {timeout} s: {self._read('err')[-4000:]}")
            time.sleep(0.01)
        return self._read("out"), self._read("err")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()


@cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.kill)
    return server


def serve() -> None:
    """Fork a keeper for each request; returns in the processes of the command, ready to run it."""
    for name in IMPORTED:
        importlib.import_module(name)
    from matplotlib.figure import Figure

    # Drawing takes more than half the time of these runs, and other tests look at what is drawn.
    Figure.savefig = _save_nothing  # type: ignore[method-assign, assignment]
    gc.collect()
    gc.freeze()  # or each process copies the memory of all that is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    for line in sys.stdin:
        request = json.loads(line)
        there, back = os.pipe()
        if os.fork() == 0:
            keep(request, back)
            return
        os.close(back)
        with open(there) as told:
            print(told.read(), flush=True)
    os._exit(0)


def _save_nothing(_: Any, file: Any, *, format: str, **__: Any) -> None:
    if format == "svg":
        file.write("<svg></svg>")
    else:
        file.write_bytes(b"")


def keep(request: dict[str, Any], back: int) -> None:
    """Fork the command, wait for it and write its status; returns in its processes."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running: list[int] = []
    for rank in range(request["processes"]):
        process = os.fork()
        if process == 0:
            os.close(back)
            become(request, rank, port, running[0] if running else 0)
            return
        # Here too: the next process joins the group of the first.
        os.setpgid(process, running[0] if running else 0)
        running.append(process)
    os.write(back, str(running[0]).encode())
    os.close(back)
    status = 0
    while running:
        process, ended = os.wait()
        running.remove(process)
        if ended and not status:
            status = os.waitstatus_to_exitcode(ended)
            for other in running:
                os.kill(other, signal.SIGTERM)
    written = Path(request["folder"]) / "status"
    written.with_suffix(".new").write_text(str(status))
    written.with_suffix(".new").rename(written)
    os._exit(0)


def become(request: dict[str, Any], rank: int, port: int, group: int) -> None:
    """Make this process one that looks as if it had just been started with the command."""
    os.setpgid(0, group)
    folder, processes = Path(request["folder"]), request["processes"]
    os.environ.clear()
    os.environ.update(request["environment"])
    if processes > 1:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        os.environ |= {"WORLD_SIZE": f"{processes}", "LOCAL_WORLD_SIZE": f"{processes}"}
    os.chdir(request["cwd"])
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["largest_file"] >= 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if "HOLD_AFTER" in os.environ:
        runpy.run_path(str(HOOK))
    sys.argv = ["vivit", *request["arguments"]]
    sys.modules["__main__"] = ModuleType("__main__")  # workers import this module's again


if __name__ == "__main__":
    serve()
    runpy.run_module("vivit", run_name="__main__", alter_sys=True)
