"""Read videos in another process, which may hang, crash or run out of memory without harm to this one."""

import io
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.video.source import VideoError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Seconds that a process may take to import PyTorch on a busy machine.
START = 300.0
# Ends the process as soon as the other end of the line is closed, by the parent or because the parent has ended.
# It comes before PyTorch is imported, which takes a minute on a busy machine.
WATCH = (
    "import os, select, threading; line = select.poll(); line.register({}, 0); "
    "threading.Thread(target=lambda: (line.poll(), os._exit(1)), daemon=True).start()"
)


def check_timeout(seconds: float) -> None:
    """Raise UserError if this is not a positive, finite time."""
    if not 0 < seconds < float("inf"):
        raise UserError(f"timeout: {seconds:g} s is out of range; use a number above 0")


class IsolatedReader:
    """Calls a function that reads a video in another process, which is killed if the call takes too long.

    The first call starts the process, which takes as long as importing PyTorch. The process serves all later calls,
    and is replaced after it was killed. It ends with the reader, or with this process. A reader runs one call at a
    time, from any thread; use several readers for parallel calls. It also works within a worker of a DataLoader, where
    `multiprocessing` allows no child processes.

    >>> with IsolatedReader(timeout=60) as reader:
    ...     views = reader(read_views, source, spec, 4, 3)
    """

    def __init__(self, timeout: float, memory: int | None = 4 << 30) -> None:
        """
        Args:
            timeout: seconds that a call may take.
            memory: bytes that a call may allocate beyond what the process has at its start; None: no limit. There is
                no limit on systems other than Linux.
        """
        check_timeout(timeout)
        self.timeout, self.memory = timeout, memory
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __call__(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Call the function and return its result.

        Everything is pickled except the pixels of uint8 tensors. Changes that the function makes to its arguments, such
        as the state of a generator, have no effect here.

        Args:
            function: must be importable.
            args: the first is the video: a path, a member of a shard, or an object with one of these as its `source`. A
                relative path counts from the working directory at the time the process was started.

        Raises:
            VideoError: raised by the function, or because the call takes too long or too much memory, or crashes.
            Exception: raised by the function.
        """
        source = source_in(args)
        request = _dump((function, args, kwargs))
        with self._lock:
            if self._child is None or not self._child.usable():
                self._end()
                self._child = _Child(self.memory)
            child = self._child
            try:
                raised, value = child.call(request, self.timeout)
            except TimeoutError:
                self._end()
                raise VideoError(source, f"took longer than {self.timeout:g} s to read") from None
            except (OSError, EOFError):
                raise VideoError(source, self._end()) from None
            except BaseException:
                # The process is in the middle of an answer that nobody will read.
                self._end()
                raise
        if not raised:
            return value
        if is_shortage(value):
            limit = "there is" if self.memory is None else f"the limit of {self.memory / (1 << 30):.3g} GiB"
            raise VideoError(source, f"takes more memory to read than {limit}")
        raise value

    def close(self) -> None:
        """End the process. The next call starts another."""
        with self._lock:
            self._end()

    def _end(self) -> str:
        """End the process, if there is one, and return how it had ended, for messages."""
        child, self._child = self._child, None
        return child.end() if child else ""

    def __reduce__(self) -> tuple[type, tuple[float, int | None]]:
        return type(self), (self.timeout, self.memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Child:
    """The process and the socket to it. Its methods raise OSError or EOFError if the process is gone."""

    def __init__(self, memory: int | None) -> None:
        self._line, theirs = socket.socketpair()
        code = (
            f"{WATCH.format(theirs.fileno())}; "
            f"import sys; sys.path[:] = {sys.path!r}; "
            "import vivit.video.clips; "  # which would otherwise take time from the first call
            f"from vivit.video.isolated import serve; serve({theirs.fileno()}, {memory})"
        )
        with theirs:
            # Not `multiprocessing`, which allows a DataLoader's worker no children, and imports the main module. A new
            # session, so that Ctrl-C does not reach the process, which would print a traceback.
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._process, self._owner = process, os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._line, process, self._owner)
        self._line.settimeout(START)
        try:
            ready = self._line.recv(1)
        except OSError:
            ready = b""
        if not ready:
            self.end()
            raise RuntimeError(f"the process that reads videos did not start: {sys.executable} -c {code!r}")

    def usable(self) -> bool:
        """Whether it is alive, and was started by this process, not by the one that this was forked from."""
        return self._owner == os.getpid() and self._process.poll() is None

    def call(self, request: Sequence[memoryview], timeout: float) -> tuple[bool, Any]:
        """Return whether the function raised, and the exception or the result. May also raise TimeoutError."""
        deadline = time.monotonic() + timeout
        _send(self._line, request, deadline)
        pickled, *buffers = _receive(self._line, deadline)
        return pickle.loads(pickled, buffers=buffers)

    def end(self) -> str:
        self._finalizer()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return "the process that read it was killed (signal 9); is there enough memory?"
        how = "in another process" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its decoder crashed ({how})"


def _end(line: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    line.close()
    if owner == os.getpid():
        process.kill()
        process.wait()


def source_in(args: Sequence[Any]) -> object:
    """The video that a function reads: its first argument, or the `source` of that."""
    return getattr(args[0], "source", args[0])


def is_shortage(error: BaseException) -> bool:
    """Whether it says that there is not enough memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # of PyTorch
    )


class _Pickler(pickle.Pickler):
    """Passes the pixels of uint8 tensors to the buffer callback, without copying them."""

    def reducer_override(self, value: object) -> Any:
        if type(value) is Tensor and value.dtype == torch.uint8:
            return torch.from_numpy, (value.contiguous().numpy(),)
        return NotImplemented


def _dump(value: object) -> list[memoryview]:
    """The pickled value, followed by the pixels."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=buffers.append).dump(value)
    return [pickled.getbuffer(), *(buffer.raw() for buffer in buffers)]


def _send(line: socket.socket, parts: Sequence[memoryview], deadline: float | None = None) -> None:
    sizes = array("Q", [len(parts), *(part.nbytes for part in parts)])
    for part in (memoryview(sizes).cast("B"), *parts):
        _wait_until(line, deadline)
        line.sendall(part)


def _receive(line: socket.socket, deadline: float | None = None) -> list[memoryview]:
    """Receive what `_send` sent. Raises EOFError if the other end is gone."""
    (count,) = array("Q", bytes(_read(line, array("Q").itemsize, deadline)))
    sizes = array("Q", bytes(_read(line, count * array("Q").itemsize, deadline)))
    return [_read(line, size, deadline) for size in sizes]


def _read(line: socket.socket, size: int, deadline: float | None) -> memoryview:
    data = np.empty(size, np.uint8).data
    rest = data
    while rest:
        _wait_until(line, deadline)
        count = line.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _wait_until(line: socket.socket, deadline: float | None) -> None:
    """Limit the time for the next step on the line."""
    if deadline is None:
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    line.settimeout(left)


def serve(number: int, memory: int | None) -> None:
    """Run in the child process: answer the calls that arrive over the socket with this descriptor."""
    line = socket.socket(fileno=number)
    torch.set_num_threads(1)
    if memory is not None:
        _limit_memory(memory)
    line.sendall(b"!")
    # Discard libc's crash output; the parent reports the failure.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        _serve_one(line)


def _serve_one(line: socket.socket) -> None:
    pickled, *buffers = _receive(line)
    try:
        function, args, kwargs = pickle.loads(pickled, buffers=buffers)
        answer = _dump((False, function(*args, **kwargs)))
    except Exception as error:
        answer = _dump((True, _portable(error)))
    _send(line, answer)


def _portable(error: Exception) -> Exception:
    """The error, or one with the same text if it cannot be pickled."""
    if not isinstance(error, UserError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _limit_memory(allowed: int) -> None:
    """Let this process allocate this many bytes beyond what it has now; on Linux only."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    limit = pages * resource.getpagesize() + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
