"""Measures training side by side: `python benchmarks/train.py`, see `README.md` beside.

The same PaliGemma in vla_jax and in a plain loop of transformers and PyTorch, at the sizes of the
default run, of a small model and of PaliGemma-3B; every row in a process of its own. Needs torch
and transformers.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import turns

from vla_jax.runtime import chips, progress

_SIDES = ("vla_jax", "transformers")
_HEADER = (
    "model, device, computation",
    "step, ms",
    "samples/s",
    "MFU, %",
    "peak memory, GiB",
    "CPU ms per step",
    "first loss",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What one process measures; `remat`, `backend` and `batch` are fields of the command."""

    side: str
    shape: str
    where: str
    dtype: str


ROWS = {
    f"{shape}: {side}, {where}, {dtype}": Row(side, shape, where, dtype)
    for shape, where, dtype in (
        ("tabletop", "cpu", "float32"),
        ("small", "cpu", "float32"),
        ("tabletop", "cuda", "bfloat16"),
        ("small", "cuda", "bfloat16"),
        ("paligemma_3b", "cuda", "bfloat16"),
    )
    for side in _SIDES
}


def main() -> None:
    """Parses the command line; with `--child` this is the process of one row."""
    arguments = _parser().parse_args()
    if arguments.child is not None:
        arguments.result.write_text(json.dumps(_measure(arguments)))
        return
    wanted = [row for row in ROWS if any(part in row for part in arguments.only or [""])]
    if not _has_gpu():
        wanted = [row for row in wanted if ROWS[row].where == "cpu"]
    options = ("times", "remat", "backend", "batch")
    same = [f"--{name}={getattr(arguments, name)}" for name in options]
    results, loads = turns.run_all(
        wanted,
        lambda row: [__file__, *same, "--child", row],
        repeats=arguments.repeats,
        limit=arguments.limit,
        environment=lambda row: turns.environment(ROWS[row].side, ROWS[row].where),
    )
    text = turns.show(_tables(arguments, results, loads))
    if arguments.write is not None:
        arguments.write.write_text(text)
        progress.note(f"written: {arguments.write}")


def _parser() -> argparse.ArgumentParser:
    parser = turns.parser(__doc__ or "", list(ROWS), times=10)
    parser.add_argument("--batch", type=int, default=0, help="examples per step; 0 as the shape")
    parser.add_argument("--remat", default="none", help="of vla_jax: none, dots or full")
    parser.add_argument("--backend", default="xla", help="attention of vla_jax: xla or auto")
    return parser


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one row in this process."""
    row = ROWS[arguments.child]
    if row.where == "cpu":
        turns.keep_to_one_core()
    from modelling import setting

    shape = setting.SHAPES[row.shape]
    shape = dataclasses.replace(shape, batch=arguments.batch or shape.batch)
    if row.side == "vla_jax":
        from modelling import ours

        options = {"dtype": row.dtype, "remat": arguments.remat, "backend": arguments.backend}
        found = ours.train(shape, arguments.times, **options)
    else:
        from modelling import peer

        found = peer.train(shape, None, row.where, row.dtype, arguments.times)
    rate = 1000 * shape.batch / found.wall
    return dataclasses.asdict(found) | {
        "samples": rate,
        "mfu": _utilisation(shape, rate, row.where),
        "batch": shape.batch,
    }


def _utilisation(shape: Any, rate: float, where: str) -> float | None:
    """Returns the share of the chip's bfloat16 peak, for both sides the same model FLOPs."""
    from vla_jax.models import flops

    kind = _gpu_kind() if where == "cuda" else None
    chip = None if kind is None else chips.named(kind)
    if chip is None:
        return None
    parts = flops.forward(
        shape.config, shape.vocabulary, images=1, prefix=shape.prefix, suffix=shape.suffix
    )
    return 3 * sum(parts.values()) * rate / chip.flops


def _gpu_kind() -> str:
    import torch

    return torch.cuda.get_device_name()


def _tables(
    arguments: argparse.Namespace,
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    loads: Sequence[float],
) -> list[turns.Table]:
    """Returns medians per row, and below each pair the ratio of the first to the second."""
    rows: list[list[Any]] = []
    for first, second in zip(*[iter(ROWS)] * 2, strict=True):
        pair = [_middle(results[row]) for row in (first, second) if results.get(row)]
        rows += [
            [name, *_cells(middle)]
            for name, middle in zip(
                [row for row in (first, second) if results.get(row)], pair, strict=True
            )
        ]
        if len(pair) == len(_SIDES):
            ours, theirs = pair
            ratio = {key: ours[key] / theirs[key] for key in ("wall", "samples", "memory", "cpu")}
            cells = (ratio["wall"], ratio["samples"], None, ratio["memory"], ratio["cpu"])
            rows.append(["ratio", *(f"{x:.2f}" if x else "" for x in cells), ""])
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "torch", "transformers")]
    title = (
        f"Training steps of AdamW, remat {arguments.remat}, attention {arguments.backend}; "
        f"{platform.machine()}, {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}; "
        f"{', '.join(versions)}"
    )
    return [turns.Table(title, _HEADER, rows)]


def _middle(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    keys = ("wall", "samples", "mfu", "memory", "cpu", "loss")
    return {key: statistics.median(run[key] or 0.0 for run in runs) for key in keys}


def _cells(middle: Mapping[str, float]) -> list[Any]:
    mfu = f"{100 * middle['mfu']:.1f}" if middle["mfu"] else ""
    shown = (middle["wall"], middle["samples"], mfu, middle["memory"] / 2**30, middle["cpu"])
    return [x if isinstance(x, str) else float(f"{x:.4g}") for x in (*shown, middle["loss"])]


if __name__ == "__main__":
    main()
