"""Ends waiting that a peer could make endless: a call over the network gets a time, or an error."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from syncnas_tvm.errors import DeviceError


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise DeviceError in the block when it takes longer than ``seconds``.

    A timer signal interrupts even TVM's C++ reads, which look for Python's signals. Signals reach the
    main thread only; in another one the block is not limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise DeviceError(
            f"{what} took longer than {seconds:g} s and was given up; is the device still on and "
            "connected? --rpc-timeout allows more"
        )

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
