"""The pictures of a report, each one PNG: actions, episodes and grippers, frames."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vla_jax.core.errors import UserError
from vla_jax.data import images
from vla_jax.data.doctor.recording import Recording

_COLOUR, _LINE, _FAINT = "#4a6fa5", "#b3402f", "#8a8f98"
_COLUMNS = 4  # histograms side by side
_TRACES, _ROWS, _FRAMES, _OTHERS = 6, 4, 4, 2
_MOST_DIMENSIONS = 32
_CHARACTERS = 90  # of a title


def draw(recording: Recording) -> dict[str, bytes]:
    """Returns file name -> PNG of every picture that this recording has something for."""
    pages = {}
    if recording.action.shape[1] and len(recording.rows):
        pages["actions.png"] = _actions(recording)
    pages["episodes.png"] = _episodes(recording)
    if recording.cameras:
        pages["frames.png"] = _frames(recording)
    return pages


def _actions(recording: Recording) -> bytes:
    """One histogram per dimension with the quantiles that normalise it."""
    count = min(recording.action.shape[1], _MOST_DIMENSIONS)
    rows = -(-count // _COLUMNS)
    figure = Figure(figsize=(11, 0.35 + 1.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, _COLUMNS)).ravel()
    for k, axis in enumerate(axes):
        if k < count:
            _histogram(axis, recording, k)
        else:
            axis.axis("off")
    figure.suptitle("share of steps per value; dashed: q01 and q99", fontsize=9, color=_FAINT)
    return _png(figure)


def _histogram(axis: Axes, recording: Recording, k: int) -> None:
    values = recording.values[:, k]
    low, high = recording.quantiles[:, k]
    size = max(1.0, abs(low), abs(high))
    span = max(high - low, 1e-3 * size)
    # The axis keeps its scale whatever the outliers are; how many there are is said.
    left, right = max(values.min(), low - span / 2), min(values.max(), high + span / 2)
    if right - left < 1e-5 * size:  # noise: bars of one value, not of its last digits
        left, right = left - span, right + span
    weights = np.full(len(values), 1 / len(values))
    axis.hist(values, bins=50, range=(left, right), weights=weights, color=_COLOUR)
    for quantile in {low, high}:
        axis.axvline(quantile, color=_LINE, linestyle="--", linewidth=1)
    unit = f" ({recording.spec.units[k]})" if recording.spec else ""
    beyond = int(((values < left) | (values > right)).sum())
    note = f"\n{beyond} beyond, {values.min():.3g}..{values.max():.3g}" if beyond else ""
    axis.set_title(f"{recording.names[k]}{unit}{note}", fontsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    _plain(axis)


def _episodes(recording: Recording) -> bytes:
    """Lengths of the episodes; the gripper over some of them."""
    shown = recording.grippers[:1] if len(recording.rows) else []
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 1 + len(shown)))
    shortest, longest = int(recording.lengths.min()), int(recording.lengths.max())
    width = -(-(longest + 1 - shortest) // 40)  # whole steps, so that no bar is empty by chance
    edges = np.arange(shortest, longest + width + 1, width) - 0.5
    axes[0].hist(recording.lengths, bins=edges.tolist(), color=_COLOUR)
    axes[0].set_xlim(edges[0] - 2, edges[-1] + 2)
    axes[0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0].axvline(np.median(recording.lengths), color=_LINE, linestyle="--", linewidth=1)
    axes[0].set_title("steps per episode; dashed: median", fontsize=8)
    axes[0].set_ylabel("episodes", fontsize=8)
    _plain(axes[0])
    for k, axis in zip(shown, axes[1:], strict=True):
        _traces(axis, recording, k)
    return _png(figure)


def _traces(axis: Axes, recording: Recording, k: int) -> None:
    """The gripper of evenly spaced episodes, one above the other."""
    values = recording.action[:, k].astype(np.float64)
    low, high = recording.values[:, k].min(), recording.values[:, k].max()
    height = max(high - low, 1e-6)
    chosen = _spread(len(recording.lengths), _TRACES)
    for line, episode in enumerate(chosen):
        start, steps = recording.starts[episode], recording.lengths[episode]
        trace = (values[start : start + steps] - low) / height
        base = len(chosen) - 1 - line
        axis.plot(base + 0.75 * trace, color=_COLOUR, linewidth=1.2, drawstyle="steps-post")
        axis.axhline(base, color=_FAINT, linewidth=0.4)
    axis.set_yticks(
        range(len(chosen)), [f"episode {e}" for e in reversed(chosen.tolist())], fontsize=7
    )
    convention = recording.spec.gripper.split(";")[0] if recording.spec else "as stored"
    title = f"{recording.names[k]} from {low:.3g} to {high:.3g} ({convention})"
    axis.set_title(_short(title), fontsize=8)
    axis.set_xlabel("step", fontsize=8)
    _plain(axis)


def _frames(recording: Recording) -> bytes:
    """Some episodes from first to last step, with their instruction and the other cameras."""
    main, others = recording.cameras[0], recording.cameras[1 : 1 + _OTHERS]
    chosen = _spread(len(recording.lengths), _ROWS)
    columns = _FRAMES + len(others)
    figure = Figure(figsize=(11, 0.2 + (11 / columns * 0.8 + 0.45) * len(chosen)))
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02)
    rows = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    for row, episode in zip(rows, chosen.tolist(), strict=True):
        start, steps = int(recording.starts[episode]), int(recording.lengths[episode])
        said = recording.instruction(start) or "(no instruction)"
        title = _short(f"episode {episode}: {said}")
        row.suptitle(title, fontsize=9, x=0.01, ha="left", parse_math=False)
        shown = [(main, start + int(t)) for t in np.linspace(0, steps - 1, _FRAMES).round()]
        shown += [(camera, start + steps // 2) for camera in others]
        for axis, (camera, i) in zip(row.subplots(1, columns), shown, strict=True):
            _frame(axis, recording, camera, i, i - start)
    return _png(figure)


def _frame(axis: Axes, recording: Recording, camera: str, i: int, t: int) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    leaf = camera.rpartition("/")[2]
    axis.set_xlabel(f"{leaf}, step {t}", fontsize=7, color=_FAINT)
    try:
        axis.imshow(images.decode(recording.image(camera, i), recording.place(i)))
    except UserError:
        axis.text(0.5, 0.5, "damaged", ha="center", va="center", color=_LINE)
        axis.set_aspect("equal")


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}..."


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _plain(axis: Axes) -> None:
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # Without the time and the version the same data give the same bytes.
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})
    return file.getvalue()
