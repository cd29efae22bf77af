"""Preemption: a cluster asks for the machine back with SIGTERM or SIGUSR1, and work ends in an orderly way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from opkit.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_received: str | None = None


@contextmanager
def preemptible() -> Iterator[None]:
    """Raise `Preempted` in the main thread when SIGTERM or SIGUSR1 arrives while the block runs.

    Handlers that somebody else set are left alone, and so are threads other than the main one.
    """
    global _received
    mine = []
    if threading.current_thread() is threading.main_thread():
        mine = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
        if mine:
            _received = None


@contextmanager
def held() -> Iterator[None]:
    """Hold SIGINT and SIGUSR1 back while the block runs.

    Processes and threads started in it never see them: when one is sent to the whole group, as by Ctrl-C and srun, this
    process alone decides what becomes of the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_preempted() -> None:
    """Raise `Preempted` again if the first time was lost: Python drops what a handler raises inside a finalizer."""
    if _received is not None:
        raise Preempted(_received)


def _raise(number: int, _: FrameType | None) -> None:
    global _received
    if _received is None:  # a second one must not disturb the tidying up that the first began
        _received = signal.Signals(number).name
        raise Preempted(_received)
