"""Running a function in a child process, which may be killed while it runs."""

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended.

    Attributes:
        value: what the function returned; None if it did not.
        error: the traceback if it raised, or "timeout"; else empty.
        killed: whether SIGKILL ended it.
    """

    value: Any = None
    error: str = ""
    killed: bool = False


def in_child(function: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Ended:
    """Run a function in a fork of this process, which must have no threads and no connections."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_and_exit(function, writing)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        data, in_time = _read(pipe.fileno(), timeout_s)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not in_time:
        return Ended(error=f"it did not end within {timeout_s} s")
    if os.WIFSIGNALED(status):
        return Ended(killed=True)
    ended: Ended = pickle.loads(data)  # noqa: S301  # our own child wrote it
    return ended


def _run_and_exit(function: Callable[[], Any], writing: int) -> None:
    ended = Ended(error="the child could not report")
    try:
        ended = Ended(value=function())
    except BaseException:  # noqa: BLE001  # a child must not run on into its parent's code
        ended = Ended(error=traceback.format_exc())
    finally:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(ended))
        os._exit(0)


def _read(descriptor: int, timeout_s: float) -> tuple[bytes, bool]:
    """Return all that comes until the child closes its end, and whether that was in time."""
    data, deadline = b"", time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                return data, True
            data += part
    return data, False
