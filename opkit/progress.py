"""One progress display for all long work: a live bar on a terminal, a plain line now and then anywhere else."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY = 10.0
"""Seconds between plain lines."""

Advance = Callable[..., None]


@contextmanager
def progress(task: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show `task` while the block runs; call the yielded `advance(count, note="")` as work gets done.

    Args:
        task: What is being done.
        total: Units of work in all.
        unit: Their name, plural.
        done: Units done before this display began (a continued run); they do not count towards the rate.
    """
    display = _bar if sys.stderr.isatty() else _lines
    with display(task, total, unit, done) as advance:
        yield advance


@contextmanager
def _bar(task: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    # Names of runs may have brackets, which are no markup.
    first, last = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[text]}"))
    columns = (first, BarColumn(bar_width=24), last)
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        state = _Rate(total, unit, done)
        row = bar.add_task(task, total=total, completed=done, text=state.text(""))

        def advance(count: int, note: str = "") -> None:
            state.add(count)
            bar.update(row, completed=state.done, text=state.text(note))

        yield advance


@contextmanager
def _lines(task: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    state = _Rate(total, unit, done)
    shown, shown_at = done, time.monotonic()

    def advance(count: int, note: str = "") -> None:
        nonlocal shown, shown_at
        state.add(count)
        now = time.monotonic()
        if shown < state.done and (state.done >= total or now - shown_at >= LINE_EVERY):
            shown, shown_at = state.done, now
            print(f"{task}: {state.text(note)}", file=sys.stderr, flush=True)

    yield advance


class _Rate:
    def __init__(self, total: int, unit: str, done: int):
        self.total, self.unit, self.done = total, unit, done
        self.began = self.start = time.monotonic()
        self.before, self.started = done, False

    def add(self, count: int) -> None:
        self.done += count
        if count and not self.started:  # what comes before the first unit is start-up, and would spoil the forecast
            self.started, self.start, self.before = True, time.monotonic(), self.done

    def text(self, note: str) -> str:
        now = time.monotonic()
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.done > self.before and now > self.start:
            rate = (self.done - self.before) / (now - self.start)
            parts.append(f"{rate:.3g}/s")
            if self.done < self.total:
                parts.append(f"{clock((self.total - self.done) / rate)} left")
        if self.done >= self.total:
            parts.append(f"in {clock(now - self.began)}")
        return ", ".join(parts + [note] * bool(note))


def clock(seconds: float) -> str:
    """12 s, 3:05 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
