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
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The projects below are not packages that are installed.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import turns
from loading import checksum_cost, ours, peers, report
from loading.datasets import ensure

from vla_jax.runtime import progress

_OURS = {f"vla_jax, {variant}": (variant, False) for variant in ours.VARIANTS}
_OURS["vla_jax in blocks, crop and colour"] = ("crop and colour", True)
_SOURCES = "the same episodes as 25 sources and as one"
_CHECKS = "images held against their checksums and not"
_INDEX = "frame index, files in memory, with checksums and without"
ROWS = (*_OURS, _SOURCES, _CHECKS, _INDEX, *peers.PEERS)
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
    results, loads = turns.run_all(
        [row for row in wanted if row not in missing],
        lambda row: _command(row, arguments),
        repeats=arguments.repeats,
        limit=arguments.limit,
    )
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
    if row == _CHECKS:
        return checksum_cost.batches(root, seconds=6 * seconds)
    if row == _INDEX:
        return checksum_cost.index(root)
    if row in _OURS:
        variant, blocks = _OURS[row]
        return dataclasses.asdict(ours.run(root, variant, blocks=blocks, seconds=seconds))
    measured = peers.run(peers.PEERS[row], root, arguments.buffer, seconds=seconds)
    return dataclasses.asdict(measured)


def _command(row: str, arguments: argparse.Namespace) -> list[str]:
    """Returns how to measure one row in a process of its own."""
    command = [__file__, "--child", row]
    for name in ("data", "seconds", "buffer", "octo", "openvla", "dlimp"):
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name}", str(value)]
    return command


if __name__ == "__main__":
    main()
