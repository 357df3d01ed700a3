"""Pictures of a run: curves as PNG, episodes as an animated grid."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vla_jax.eval.closed_loop import Outcome

_TILE, _CAPTION, _GAP, _COLUMNS = 192, 34, 6, 4
_FRAME_MS, _LAST_MS = 250, 1500
_GREEN, _RED, _GREY = (30, 140, 60), (200, 40, 40), (90, 90, 90)

# Panel title -> (pattern of the metric's name, lower and upper bound of the axis or None).
_PANELS = {
    "loss per source (nats per token)": ("loss/", None),
    "token accuracy": ("accuracy/", (0, 1)),
    "closed-loop success": ("success/", (0, 1)),
    "held-out questions, share right": ("vqa/", (0, 1)),
}


def curves(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plots the metrics over the steps: training solid, held-out dashed.

    Args:
      rows: lines of metrics.jsonl.
      path: the PNG to write.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (title, (pattern, bounds)) in zip(axes.flat, _PANELS.items(), strict=True):
        names = sorted({name for row in rows for name in row if pattern in name})
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            style = "o--" if name.startswith(("held_out", "success", "vqa")) else "-"
            axis.plot(*zip(*points, strict=True), style, label=name, markersize=3, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if bounds:
            axis.set_ylim(bounds[0] - 0.02, bounds[1] + 0.02)
        else:
            axis.set_yscale("log")
        if names:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def film(outcomes: Sequence[Outcome], path: str | os.PathLike[str]) -> None:
    """Writes an animated GIF: a grid of episodes, each under its instruction.

    An episode that is over stands still, its caption green after success and red after failure.

    Args:
      outcomes: filmed episodes.
      path: the GIF to write.
    """
    if not outcomes:
        return
    length = max(len(outcome.images) for outcome in outcomes)
    frames = [_grid(outcomes, t) for t in range(length)]
    durations = [_FRAME_MS] * (length - 1) + [_LAST_MS]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _grid(outcomes: Sequence[Outcome], t: int) -> Image.Image:
    columns = min(_COLUMNS, len(outcomes))
    rows = math.ceil(len(outcomes) / columns)
    width, height = _TILE + _GAP, _TILE + _CAPTION + _GAP
    grid = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(12)
    for number, outcome in enumerate(outcomes):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        over = t >= len(outcome.images) - 1
        colour = _GREY if not over else _GREEN if outcome.success else _RED
        picture = Image.fromarray(np.asarray(outcome.images[min(t, len(outcome.images) - 1)]))
        draw.multiline_text((x, y), _wrap(outcome.instruction, font), fill=colour, font=font)
        grid.paste(picture.resize((_TILE, _TILE), Image.Resampling.LANCZOS), (x, y + _CAPTION))
        box = (x - 1, y + _CAPTION - 1, x + _TILE, y + _CAPTION + _TILE)
        draw.rectangle(box, outline=colour, width=2)
    return grid.convert("P", palette=Image.Palette.ADAPTIVE)


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > _TILE and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines[:2])
