"""A picture of a table: a panel per measure, means with 95% intervals, seeds as dots."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vla_jax.eval import report
from vla_jax.sweep.significance import Mean
from vla_jax.sweep.table import Table

_COLUMNS = 3
_PANEL = (4.2, 3.2)  # inches
_PER_ARM = 0.28  # inches of a panel's height
_DOTS = {"marker": "o", "s": 9, "alpha": 0.45, "linewidths": 0, "zorder": 3}
_MARKERS = "sDv^"  # one more for every ten arms
_BARS = {"capsize": 3, "markersize": 5, "linewidth": 1.4}


def draw(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes a PNG.

    Along `sweep.axis` where there is one, with a line for each combination of whatever else the
    arms set, and a level one for arms that have no value there; else arm by arm, with a star at
    those that differ from the reference.

    Args:
      table: at least one row.
      path: the file.
    """
    measures = table.sweep.drawn or tuple(table.sweep.measures)
    columns = min(_COLUMNS, len(measures))
    rows = math.ceil(len(measures) / columns)
    by_arm = table.sweep.axis is None
    height = max(_PANEL[1], _PER_ARM * len(table.arms)) if by_arm else _PANEL[1]
    figure = Figure(figsize=(_PANEL[0] * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=by_arm).flat
    for panel, measure in zip(panels, measures, strict=False):
        if table.sweep.axis is None:
            _by_arm(panel, table, measure)
        else:
            _along(panel, table, measure, table.sweep.axis)
        panel.set_title(measure, fontsize=10)
        panel.grid(alpha=0.3)
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        handles |= zip(*reversed(panel.get_legend_handles_labels()), strict=True)
    if handles:
        labels = list(handles)
        figure.legend(handles.values(), labels, loc="outside upper center", ncols=4, fontsize=9)
    for panel in list(figure.axes)[len(measures) :]:
        panel.set_visible(False)
    report.write_png(figure, path)


def pareto(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes a PNG of one measure against another: all arms, and near those that none beats.

    Args:
      table: of a sweep with `pareto`.
      path: the file.
    """
    assert table.sweep.pareto is not None
    across, up = table.sweep.pareto
    points = {
        arm: (x, y)
        for arm in table.arms
        if (x := table.mean(arm, across)) is not None and (y := table.mean(arm, up)) is not None
    }
    values = [(x.value, y.value) for x, y in points.values()]
    front = sorted(point for point in values if not _is_beaten(point, values))
    xs, ys = [x for x, _ in front], [y for _, y in front]
    figure = Figure(figsize=(10.4, 4.8), layout="constrained")
    everything, near = figure.subplots(1, 2)
    for panel, title in ((everything, "all"), (near, "near those that no arm beats in both")):
        for number, (arm, (x, y)) in enumerate(points.items()):
            halves = [0.0 if math.isnan(mean.half) else mean.half for mean in (x, y)]
            style = {"color": f"C{number % 10}", "fmt": _MARKERS[number // 10 % len(_MARKERS)]}
            panel.errorbar(x.value, y.value, halves[1], halves[0], label=arm, **style, **_BARS)
        panel.plot(xs, ys, "--", color="0.4", zorder=1, label="beaten by none")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(across)
        panel.set_ylabel(up)
        panel.grid(alpha=0.3)
    if front:
        near.set_xlim(*_around(xs))
        near.set_ylim(*_around(ys))
    figure.legend(*near.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    report.write_png(figure, path)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Returns limits that leave room beside values, which may all be one."""
    low, high = min(values), max(values)
    room = 0.35 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _is_beaten(point: tuple[float, float], others: Iterable[tuple[float, float]]) -> bool:
    return any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in others)


def _by_arm(panel: Axes, table: Table, measure: str) -> None:
    arms = table.arms
    different = table.significant()
    for y, arm in enumerate(arms):
        values, mean = table.values(arm, measure), table.mean(arm, measure)
        if mean is None:
            continue
        colour = "C1" if arm == table.sweep.reference else "C0"
        panel.scatter(values, [y + 0.2] * len(values), color=colour, **_DOTS)
        half = 0.0 if math.isnan(mean.half) else mean.half
        panel.errorbar(mean.value, y, xerr=half, fmt="s", color=colour, **_BARS)
        if (arm, measure) in different:
            panel.annotate("*", (mean.value + half, y), va="center", fontsize=14)
    panel.set_yticks(range(len(arms)), arms, fontsize=8)
    panel.set_ylim(len(arms) - 0.5, -0.5)  # in the order of the table
    panel.margins(x=0.1)


def _along(panel: Axes, table: Table, measure: str, axis: str) -> None:
    settings = {row.run.arm: row.run.set for row in table.rows}
    lines: dict[str, list[str]] = {}
    level: list[str] = []
    for arm in table.arms:
        if axis not in settings[arm] or arm in table.sweep.baselines:  # has no place on the axis
            level.append(arm)
        else:
            lines.setdefault(_line(arm, settings[arm], axis), []).append(arm)
    # Colours are counted over all arms, measured or not: the panels share one legend.
    for number, arm in enumerate(level):
        if (mean := table.mean(arm, measure)) is not None:
            panel.axhline(mean.value, linestyle=":", label=arm, color=f"C{9 - number}")
    for number, (name, arms) in enumerate(lines.items()):
        measured = [arm for arm in arms if table.values(arm, measure)]
        measured.sort(key=lambda arm: settings[arm][axis])
        means = [Mean.of(table.values(arm, measure)) for arm in measured]
        xs = [settings[arm][axis] for arm in measured]
        ys = [mean.value for mean in means]
        halves = [0.0 if math.isnan(mean.half) else mean.half for mean in means]
        style = {"color": f"C{number}", **_BARS}
        panel.errorbar(xs, ys, halves, fmt="o-", label=name or None, **style)
        for x, arm in zip(xs, measured, strict=True):
            values = table.values(arm, measure)
            panel.scatter([x] * len(values), values, color=f"C{number}", **_DOTS)
    every = sorted({settings[arm][axis] for arms in lines.values() for arm in arms})
    if _is_geometric(every):
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
    panel.set_xticks(every, [str(x) for x in every], fontsize=8)
    panel.set_xlabel(axis.rpartition(".")[2])


def _line(arm: str, settings: Mapping[str, Any], axis: str) -> str:
    """Names the line of an arm: by what else a grid has put into its name, or what else it sets."""
    parts, own = arm.split(","), f"{axis.rpartition('.')[2]}={settings[axis]}"
    if own in parts:
        return ", ".join(part for part in parts if part != own)
    others = {field: value for field, value in settings.items() if field != axis}
    return ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in others.items())


def _is_geometric(values: Sequence[float]) -> bool:
    return len(values) > 2 and values[0] > 0 and values[-1] / values[0] >= 8
