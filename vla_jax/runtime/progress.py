"""What a person sees while something runs: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

_SECONDS_BETWEEN_LINES = 15.0
_consoles: dict[int, rich.console.Console] = {}


class Progress:
    """Counts up to a total, showing count, rate, time left and a few values.

    On a terminal this is one live line; anywhere else one line at most every 15 seconds and one
    at the end.
    """

    def __init__(self, name: str, *, total: int, start: int = 0):
        """Prepares the display; nothing is shown before the `with` block.

        Args:
          name: what is being done, in a word.
          total: the count at which it is done.
          start: the count already done, by the run that this one resumes.
        """
        self._name = name
        self._total = total
        self._start = self._count = start
        self._values: dict[str, str] = {}
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        """Starts the clock and the display."""
        self._began = time.monotonic()
        self._printed_at = self._began
        self._printed_count = -1
        if console().is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.fields[line]}"),
                console=console(),
            )
            self._task = self._bar.add_task(
                self._name, total=self._total, completed=self._start, line=self._line()
            )
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Shows the final count and stops the display."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._count, line=self._line())
            self._bar.stop()
        elif self._printed_count != self._count:
            self._print()

    def update(self, count: int = 1, **values: Any) -> None:
        """Counts on and replaces the values shown.

        Args:
          count: how many more are done.
          **values: what to show beside the count, such as `loss=0.31`. A value stays until it
            is replaced. Do not fetch a device array for this at every step: it waits.
        """
        self._count += count
        self._values |= {name: _spell(value) for name, value in values.items()}
        if self._bar is not None:
            self._bar.update(self._task, completed=self._count, line=self._line())
        elif time.monotonic() - self._printed_at >= _SECONDS_BETWEEN_LINES:
            self._print()

    def _line(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = (self._count - self._start) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._count}/{self._total}"]
        if rate > 0:
            left = max(self._total - self._count, 0) / rate
            parts += [f"{rate:.3g}/s", f"{duration(left)} left"]
        return "  ".join([*parts, *(f"{name} {text}" for name, text in self._values.items())])

    def _print(self) -> None:
        note(f"{self._name}  {self._line()}")
        self._printed_at = time.monotonic()
        self._printed_count = self._count


class Phases:
    """One bar after the other, for work that reports `(phase, done, total)`."""

    def __init__(self) -> None:
        """Prepares; nothing is shown before the first report."""
        self._name = ""
        self._done = 0
        self._bar: Progress | None = None

    def __enter__(self) -> "Phases":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the last bar."""
        if self._bar is not None:
            self._bar.__exit__(*exception)
            self._bar = None

    def __call__(self, name: str, done: int, total: int) -> None:
        """Shows how far a phase is; a new name begins a new bar."""
        if self._bar is None or name != self._name:
            self.__exit__()
            self._name, self._done = name, 0
            self._bar = Progress(name, total=total).__enter__()
        self._bar.update(done - self._done)
        self._done = done


def console() -> rich.console.Console:
    """Returns the console that all output to people goes through, on standard output."""
    # One per stream, since a test or a pager may replace sys.stdout.
    stream = sys.stdout
    if _consoles.keys() != {id(stream)}:
        _consoles.clear()
        # A log file has no width to fit: let its reader wrap the lines.
        width = None if stream.isatty() else 1000
        _consoles[id(stream)] = rich.console.Console(file=stream, width=width, highlight=False)
    return _consoles[id(stream)]


def mute() -> None:
    """Shows nothing from now on: another process speaks for this one."""
    console().quiet = True


def note(text: str) -> None:
    """Prints one line, above a bar that is being shown.

    Args:
      text: printed as it is, square brackets included.
    """
    console().print(text, markup=False)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table of results.

    Args:
      title: the line above it.
      header: the column names.
      rows: one sequence per row, in the order of the header; floats are rounded.
    """
    grid = rich.table.Table(title=rich.text.Text(title), title_justify="left")
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    for name, right in zip(header, numeric, strict=True):
        grid.add_column(rich.text.Text(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(rich.text.Text(_spell(value)) for value in row))
    console().print(grid)


def duration(seconds: float) -> str:
    """Spells seconds as `M:SS` or `H:MM:SS`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _spell(value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    if hasattr(value, "__float__"):
        return f"{float(value):.4g}"
    return str(value)
