"""Pictures of a run: curves, and episodes as a moving grid."""

import io
import itertools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vla_jax.core import files
from vla_jax.eval.closed_loop import Outcome

_TILE, _CAPTION, _GAP, _COLUMNS = 192, 34, 6, 4
_FRAME_MS, _LAST_MS, _MOST_FRAMES = 250, 1500, 80
_GREEN, _RED, _GREY = (30, 140, 60), (200, 40, 40), (90, 90, 90)

# Panel title -> (what the metric's name has in it, the axis).
_PANELS = {
    "loss per source (nats per token)": ("loss/", "log"),
    "token accuracy": ("accuracy/", "share"),
    "closed-loop success": ("success/", "share"),
    "held-out questions, share right": ("vqa/", "share"),
}
_MORE_PANELS = {
    "gradient norm": ("gradient_norm", "log"),
    "examples per second and device": ("speed/samples", "linear"),
}
_HELD_OUT = "held_out/"
# Seen on white and on near black alike.
_COLOURS = ("#3f83d8", "#e0772f", "#2f9e6e", "#c25ba8", "#b58a1b", "#7a7fd6", "#d15450", "#6f8a8f")


def curves(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plots the metrics over the steps: training solid, held-out dashed.

    Args:
      rows: lines of metrics.jsonl.
      path: the PNG to write.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axis, title in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        _draw(axis, rows, *_PANELS[title])
        axis.set_title(title, fontsize=10)
    write_png(figure, path)


def write_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    files.write_whole(path, buffer.getvalue())


def panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[str], str]]:
    """Returns title -> metrics, and their curves as an SVG element, of those that there are.

    Text and lines take the colour of the text around, the background is clear.
    """
    found = {}
    for title, (part, scale) in (_PANELS | _MORE_PANELS).items():
        names = _names(rows, part)
        if not names:
            continue
        figure = Figure(figsize=(5.6, 3.3), layout="constrained")
        axis = figure.subplots()
        _draw(axis, rows, part, scale)
        for patch in (figure.patch, axis.patch):
            patch.set_visible(False)
        found[title] = names, _svg(figure, title)
    return found


def film(outcomes: Sequence[Outcome], path: str | os.PathLike[str]) -> None:
    """Writes a film, whole or not at all: a grid of episodes, each under its instruction.

    An episode that is over stands still, its caption green after success and red after failure.

    Args:
      outcomes: filmed episodes; without any, nothing is written.
      path: the file to write: .gif for an animated GIF, .webm for VP9.
    """
    if not outcomes:
        return
    path = pathlib.Path(path)
    length = max(len(outcome.images) for outcome in outcomes)
    times = np.unique(np.linspace(0, length - 1, min(length, _MOST_FRAMES)).round().astype(int))
    frames = [_grid(outcomes, int(t)) for t in times]
    if path.suffix == ".gif":
        durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
        pages = [frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
        more = {"append_images": pages[1:], "duration": durations, "loop": 0}
        buffer = io.BytesIO()
        pages[0].save(buffer, "GIF", save_all=True, **more)
        data = buffer.getvalue()
    else:
        held = [frames[-1]] * (_LAST_MS // _FRAME_MS - 1)
        data = _encode([*frames, *held])
    files.write_whole(path, data)


def _encode(frames: Sequence[Image.Image]) -> bytes:
    """Returns a WebM file of pictures of one size."""
    import av  # noqa: PLC0415  (its libraries take a while to load)

    width, height = (side // 2 * 2 for side in frames[0].size)  # chroma is halved
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=1000 // _FRAME_MS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "28", "b": "0"}  # constant quality
        for picture in frames:
            pixels = np.asarray(picture.crop((0, 0, width, height)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _names(rows: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    return sorted({name for row in rows for name in row if part in name})


def _draw(axis: Axes, rows: Sequence[Mapping[str, Any]], part: str, scale: str) -> None:
    """Draws the metrics that have `part` in their names, on an axis `share`, `log` or `linear`."""
    names = _names(rows, part)
    # A measurement has one colour, on training data and on held-out data.
    measured = dict.fromkeys(name.removeprefix(_HELD_OUT) for name in names)
    colours = dict(zip(measured, itertools.cycle(_COLOURS), strict=False))
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        style = "o--" if name.startswith((_HELD_OUT, "success", "vqa")) else "-"
        colour = colours[name.removeprefix(_HELD_OUT)]
        axis.plot(
            *zip(*points, strict=True),
            style,
            label=name,
            color=colour,
            markersize=3,
            linewidth=1.2,
        )
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if scale == "share":
        axis.set_ylim(-0.02, 1.02)
    elif scale == "log":
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    if len(names) > 1:
        axis.legend(fontsize=8, framealpha=0)


def _svg(figure: Figure, title: str) -> str:
    """Returns a figure as an SVG element that a page can colour."""
    buffer = io.StringIO()
    # Text stays text; equal figures are equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


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
    return grid


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > _TILE - 2 * _GAP and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines[:2])
