"""Measures data loaders side by side: `python benchmarks/loader.py`, see `README.md` beside.

Generates two RLDS datasets once (about 1 GB), then runs every loader in a process of its own and
prints what it cost. Other projects' loaders are run where they are installed, or where their
sources are named with `--octo`, `--openvla` and `--dlimp`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The projects below are not packages that are installed.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from loading import ours, peers, report
from loading.datasets import ensure

from vla_jax.runtime import progress

_OURS = {f"vla_jax, {variant}": (variant, False) for variant in ours.VARIANTS}
_OURS["vla_jax in blocks, crop and colour"] = ("crop and colour", True)
_SOURCES = "the same episodes as 25 sources and as one"
_INDEX = "frame index, files in memory"
ROWS = (*_OURS, _SOURCES, _INDEX, *peers.PEERS)
_MANY = 25


def main() -> None:
    """Parses the command line; with `--child` this is the process of one loader."""
    arguments = _parser().parse_args()
    folders = {name: getattr(arguments, name) for name in ("octo", "openvla", "dlimp")}
    missing = peers.find(folders)
    if arguments.child is not None:
        result = _measure(arguments.child, arguments.data, arguments)
        arguments.result.write_text(json.dumps(result))
        return
    ensure(arguments.data)
    ours.prepare(arguments.data)
    wanted = [row for row in ROWS if any(part in row for part in arguments.only or [""])]
    for row in missing:
        if row in wanted:
            progress.note(f"left out: {row} ({missing[row]})")
    results, loads = _run_all([row for row in wanted if row not in missing], arguments)
    text = report.show(results, loads)
    if arguments.write is not None:
        arguments.write.write_text(text)
        progress.note(f"written: {arguments.write}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    home = pathlib.Path("~/.cache/vla_jax/benchmarks").expanduser()
    parser.add_argument("--data", type=pathlib.Path, default=home, help="where the datasets are")
    parser.add_argument("--only", nargs="+", help=f"parts of the names of: {'; '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=3, help="processes per loader")
    parser.add_argument("--seconds", type=float, default=10, help="how long each is timed")
    parser.add_argument("--limit", type=float, default=600, help="seconds that each may take")
    parser.add_argument("--buffer", type=int, default=10_000, help="the others' shuffle buffer")
    parser.add_argument("--write", type=pathlib.Path, help="markdown file for the results")
    for name in ("octo", "openvla", "dlimp"):
        parser.add_argument(f"--{name}", metavar="FOLDER", help=f"sources of {name}")
    parser.add_argument("--child", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser


def _measure(row: str, root: pathlib.Path, arguments: argparse.Namespace) -> Any:
    """Measures one row in this process."""
    seconds = arguments.seconds
    if row == _SOURCES:
        return ours.sources(root, _MANY, seconds=6 * seconds)
    if row == _INDEX:
        return ours.index(root)
    if row in _OURS:
        variant, blocks = _OURS[row]
        return dataclasses.asdict(ours.run(root, variant, blocks=blocks, seconds=seconds))
    measured = peers.run(peers.PEERS[row], root, arguments.buffer, seconds=seconds)
    return dataclasses.asdict(measured)


def _run_all(
    rows: list[str], arguments: argparse.Namespace
) -> tuple[dict[str, list[Any]], list[float]]:
    """Runs the rows by turns, so that a change of the machine's load meets all of them.

    Returns:
      What the processes of each row returned, and the machine's load before each process.
    """
    results: dict[str, list[Any]] = {row: [] for row in rows}
    loads = []
    with progress.Progress("measure", total=len(rows) * arguments.repeats) as bar:
        for _ in range(arguments.repeats):
            for row in rows:
                loads.append(os.getloadavg()[0])
                result = _run(row, arguments)
                if result is not None:
                    results[row].append(result)
                bar.update(loader=row)
    return results, loads


def _run(row: str, arguments: argparse.Namespace) -> Any:
    """Runs a row in a process of its own; None when it fails, whose output is then shown."""
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder, "result.json")
        command = [sys.executable, __file__, "--child", row, "--result", str(result)]
        for name in ("data", "seconds", "buffer", "octo", "openvla", "dlimp"):
            value = getattr(arguments, name)
            command += [] if value is None else [f"--{name}", str(value)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=arguments.limit, check=False
            )
        except subprocess.TimeoutExpired:
            progress.note(f"{row}: no result in {arguments.limit:.0f} s")
            return None
        if done.returncode:
            progress.note(f"{row}: failed\n{done.stderr[-3000:]}")
            return None
        return json.loads(result.read_text())


if __name__ == "__main__":
    main()
