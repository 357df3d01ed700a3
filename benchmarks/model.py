"""Measures a model side by side: `python benchmarks/model.py`, see `README.md` beside.

The same PaliGemma, weights and inputs in vla_jax and in transformers: a training step and an action
of 8 tokens, every row in a process of its own. Needs torch and transformers.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import turns

from vla_jax.runtime import progress

_SHAPE = "small"
_SIDES = ("vla_jax", "transformers")
_SETTINGS = (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16"))
ROWS = {
    f"{side}, {where}, {dtype}": (side, where, dtype)
    for where, dtype in _SETTINGS
    for side in _SIDES
}
_HEADER = (
    "model, device, computation",
    "train step, CPU ms",
    "train step, wall ms",
    "8 tokens, CPU ms",
    "8 tokens, wall ms",
    "first loss",
)


def main() -> None:
    """Parses the command line; with `--child` this is the process of one row."""
    arguments = _parser().parse_args()
    if arguments.child is not None:
        arguments.result.write_text(json.dumps(_measure(arguments)))
        return
    wanted = [row for row in ROWS if any(part in row for part in arguments.only or [""])]
    if not _has_gpu():
        wanted = [row for row in wanted if ROWS[row][1] == "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder, "model.safetensors")
        _write_weights(weights)
        child = [__file__, "--times", str(arguments.times), "--weights", str(weights), "--child"]
        results, loads = turns.run_all(
            wanted,
            lambda row: [*child, row],
            repeats=arguments.repeats,
            limit=arguments.limit,
            environment=lambda row: turns.environment(*ROWS[row][:2]),
        )
    text = turns.show(_tables(results, loads))
    if arguments.write is not None:
        arguments.write.write_text(text)
        progress.note(f"written: {arguments.write}")


def _parser() -> argparse.ArgumentParser:
    parser = turns.parser(__doc__ or "", list(ROWS), times=5)
    parser.add_argument("--weights", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _write_weights(path: pathlib.Path) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from modelling import setting

    setting.write_weights(setting.SHAPES[_SHAPE], path)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one row in this process."""
    side, where, dtype = ROWS[arguments.child]
    if where == "cpu":
        turns.keep_to_one_core()
    from modelling import setting

    shape, times = setting.SHAPES[_SHAPE], arguments.times
    if side == "vla_jax":
        from modelling import ours

        acted, trained = ours.act(shape, times, dtype=dtype), ours.train(shape, times, dtype=dtype)
    else:
        from modelling import peer

        place = (arguments.weights, where, dtype, times)
        acted, trained = peer.act(shape, *place), peer.train(shape, *place)
    return {
        "train_cpu": trained.cpu,
        "train_wall": trained.wall,
        "act_cpu": acted.cpu,
        "act_wall": acted.wall,
        "parameters": trained.parameters,
        "loss": trained.loss,
        "tokens": acted.tokens,
    }


def _tables(
    results: Mapping[str, Sequence[Mapping[str, Any]]], loads: Sequence[float]
) -> list[turns.Table]:
    """Returns medians per row, and below each pair the ratio of the first to the second."""
    fields = ("train_cpu", "train_wall", "act_cpu", "act_wall", "loss")
    rows: list[list[Any]] = []
    middles = {
        row: [statistics.median(run[field] for run in runs) for field in fields]
        for row, runs in results.items()
        if runs
    }
    for where, dtype in _SETTINGS:
        pair = [f"{side}, {where}, {dtype}" for side in _SIDES]
        rows += [[row, *(_round(x) for x in middles[row])] for row in pair if row in middles]
        if all(row in middles for row in pair):
            ratios = [
                f"{a / b:.2f}" for a, b in zip(*(middles[row][:4] for row in pair), strict=True)
            ]
            same = results[pair[0]][0]["tokens"] == results[pair[1]][0]["tokens"]
            rows.append(["ratio", *ratios, f"tokens {'equal' if same else 'differ'}"])
    sizes = {run["parameters"] for runs in results.values() for run in runs}
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "torch", "transformers")]
    title = (
        f"PaliGemma of {max(sizes) / 1e6:.1f} M parameters, 64 + 24 + 8 tokens, batches of 4, "
        f"actions for one image; {platform.machine()}, load {min(loads):.1f} to {max(loads):.1f}; "
        f"{', '.join(versions)}"
    )
    return [turns.Table(title, _HEADER, rows)]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
