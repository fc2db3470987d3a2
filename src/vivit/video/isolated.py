"""Reading in a process of its own, which may hang, crash or run out of memory without harm to this one."""

import io
import os
import pickle
import resource
import select
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
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.video.source import VideoError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Seconds within which a process has imported PyTorch, on a machine that has much else to do.
START = 300.0


def check_timeout(seconds: float) -> None:
    """Raises UserError where this is no time for a call."""
    if not 0 < seconds < float("inf"):
        raise UserError(f"timeout: {seconds:g} s is no time to read a video in; give a number above 0")


class IsolatedReader:
    """Calls a function that reads a video in another process, which is ended where the call takes too long.

    The process is started by the first call, which takes as long as importing PyTorch does, serves all later ones, and
    is started anew after it had to be ended. It ends with the reader, or with this process. A reader does one call at a
    time, in whatever thread; for several at once, take several. It works within a worker of a DataLoader too, where
    `multiprocessing` allows no further process.

    >>> with IsolatedReader(timeout=60) as reader:
    ...     views = reader(read_views, source, spec, 4, 3)
    """

    def __init__(self, timeout: float, memory: int | None = 4 << 30) -> None:
        """
        Args:
            timeout: seconds for a call.
            memory: bytes that a call may take beyond what the process has at its start; None is without a limit, as it
                is wherever the system is not Linux.
        """
        check_timeout(timeout)
        self.timeout, self.memory = timeout, memory
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __call__(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """What the function returns for these arguments.

        Everything is pickled on its way but the pixels of uint8 tensors. What the function changes in its arguments,
        such as the state of a generator, stays as it is here.

        Args:
            function: one that can be imported.
            args: the first one is the video: a path, a member of a shard, or what has one of them as its `source`. A
                relative path is taken from the folder that was the working one when the process was started.

        Raises:
            VideoError: the function raises it; or the call takes too long or too much memory, or crashes.
            Exception: any other that the function raises.
        """
        source = getattr(args[0], "source", args[0])
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
                raise VideoError(source, f"its decoder crashed ({self._end()})") from None
            except BaseException:
                # It is in the middle of an answer that nobody waits for.
                self._end()
                raise
        if not raised:
            return value
        if _is_shortage(value):
            limit = "there is" if self.memory is None else f"the {self.memory / (1 << 30):.3g} GiB that it may"
            raise VideoError(source, f"takes more memory to read than {limit}")
        raise value

    def close(self) -> None:
        """End the process. A later call starts another."""
        with self._lock:
            self._end()

    def _end(self) -> str:
        """End the process, if there is one; how it ended, in words."""
        child, self._child = self._child, None
        return child.end() if child else ""

    def __reduce__(self) -> tuple[type, tuple[float, int | None]]:
        return type(self), (self.timeout, self.memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Child:
    """The process and the line to it. Whoever cannot reach it gets an OSError or EOFError."""

    def __init__(self, memory: int | None) -> None:
        self._line, theirs = socket.socketpair()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from vivit.video.isolated import serve; serve({theirs.fileno()}, {memory})"
        )
        with theirs:
            # Not of `multiprocessing`: that lets no worker of a DataLoader have children, and imports the main module.
            # In a session of its own, so that Ctrl-C ends what waits for it and leaves no traceback of its own.
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
        """Whether it lives, and is of this process and not of the one that this was forked off."""
        return self._owner == os.getpid() and self._process.poll() is None

    def call(self, request: Sequence[memoryview], timeout: float) -> tuple[bool, Any]:
        """Whether the function raised, and what it raised or returned. Raises TimeoutError too."""
        deadline = time.monotonic() + timeout
        _send(self._line, request, deadline)
        pickled, *buffers = _receive(self._line, deadline)
        return pickle.loads(pickled, buffers=buffers)

    def end(self) -> str:
        self._finalizer()
        code = self._process.returncode
        if code is None:
            return "of another process"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end(line: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    line.close()
    if owner == os.getpid():
        process.kill()
        process.wait()


def _is_shortage(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # of PyTorch
    )


class _Pickler(pickle.Pickler):
    """Leaves the pixels of uint8 tensors where they are; the buffer callback gets them."""

    def reducer_override(self, value: object) -> Any:
        if type(value) is Tensor and value.dtype == torch.uint8:
            return torch.from_numpy, (value.contiguous().numpy(),)
        return NotImplemented


def _dump(value: object) -> list[memoryview]:
    """The value pickled, and after it the pixels."""
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
    """What `_send` sends. Raises EOFError where the other end is gone."""
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
    """How long the next step on the line may take."""
    if deadline is None:
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    line.settimeout(left)


def serve(number: int, memory: int | None) -> None:
    """What the process does: one call after the other, as they come over the socket of that number."""
    # What the first call would otherwise spend its time on.
    import vivit.video.clips  # noqa: F401

    line = socket.socket(fileno=number)
    threading.Thread(target=_end_with_the_caller, args=(line,), daemon=True).start()
    torch.set_num_threads(1)
    if memory is not None:
        _limit_memory(memory)
    line.sendall(b"!")
    # What the C library has to say of a crash is for nobody.
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
    """The error, or one that says the same, as it can be raised elsewhere."""
    if not isinstance(error, UserError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _end_with_the_caller(line: socket.socket) -> None:
    """Wait until the other end of the line is closed, be it by the system, whatever the decoder is doing meanwhile."""
    poll = select.poll()
    poll.register(line, 0)  # a closed end is reported unasked
    poll.poll()
    os._exit(1)


def _limit_memory(allowed: int) -> None:
    """Let this process have so many bytes more than it has; the system says where it has its count."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data and stack
    limit = pages * resource.getpagesize() + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
