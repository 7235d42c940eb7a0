"""Which job is at work here: what is kept for later on its behalf belongs to that job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AtWork:
    """A job at work.

    Args:
        request: its request's number, 0 for none.
        job: its number, 0 for none.
    """

    request: int = 0
    job: int = 0


_NOBODY = AtWork()
_CURRENT: ContextVar[AtWork] = ContextVar("at_work", default=_NOBODY)


def current() -> AtWork:
    """The job whose step this thread is at; zeros outside of one."""
    return _CURRENT.get()


@contextmanager
def at_work(request: int, job: int) -> Iterator[None]:
    """What is done inside is done for that job.

    Args:
        request: its request's number.
        job: its number.
    """
    before = _CURRENT.set(AtWork(request, job))
    try:
        yield
    finally:
        _CURRENT.reset(before)
