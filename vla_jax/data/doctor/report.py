"""An examination as one page of HTML that needs no other file, and its plots beside it."""

import base64
import html
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from vla_jax.core import files, paths
from vla_jax.data.doctor import plots
from vla_jax.data.doctor.examination import Examination
from vla_jax.data.doctor.finding import COST
from vla_jax.data.doctor.recording import Recording

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1e2024; max-width: 1080px;
  margin: 24px auto; padding: 0 16px; }
h1 { font-size: 21px; margin: 0 0 2px; } h2 { font-size: 15px; margin: 28px 0 8px; }
header { display: flex; align-items: center; gap: 20px; border-bottom: 1px solid #d6d9dd;
  padding-bottom: 14px; }
.score { font-size: 34px; font-weight: 600; min-width: 96px; text-align: center;
  border-radius: 8px; padding: 8px 12px; background: #eef0f3; }
.faint { color: #787c82; } table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: #787c82; font-size: 12px; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid #e9ebee; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:nth-child(1) { white-space: nowrap; } td:nth-child(2) { overflow-wrap: anywhere; }
.mark { display: inline-block; border-radius: 3px; padding: 0 7px; font-size: 12px; }
.ok { background: #d6efdc; } .note { background: #dfe8f5; } .warning { background: #fbe6bf; }
.error { background: #f6c9c2; } img { max-width: 100%; }
"""
_PLOTS = {"actions.png": "Actions", "episodes.png": "Episodes", "frames.png": "Frames"}


def write(examination: Examination, directory: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.html` and its plots, each whole or not at all; returns the HTML's path."""
    folder = pathlib.Path(paths.expand(directory))
    pictures = plots.draw(examination.recording) if examination.recording else {}
    page = _page(examination, pictures)
    for name, data in (pictures | {"report.html": page.encode()}).items():
        files.write_whole(folder / name, data)
    return folder / "report.html"


def _page(examination: Examination, pictures: Mapping[str, bytes]) -> str:
    points, letter = examination.grade
    name = html.escape(examination.name)
    recording = examination.recording
    size = (
        f"{len(recording.lengths):,} episodes, {len(recording):,} steps, "
        f"{int(recording.keep.sum()):,} of them trained on"
        if recording
        else "could not be read"
    )
    costs = ", ".join(f"{cost} per {severity}" for severity, cost in COST.items() if cost)
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}: data doctor",
        f"</title><style>{_STYLE}</style></head><body>",
        f"<header><div class='score'>{points} <span class='faint'>{letter}</span></div>",
        f"<div><h1>{name}</h1><div class='faint'>split {html.escape(examination.split)}; {size}",
        f"<br>{html.escape(examination.directory)}</div></div></header>",
        f"<h2>Findings</h2>{_findings(examination)}",
        f"<p class='faint'>Out of 100 points: {costs}. Sound is the share of what was looked at ",
        "(steps, episodes, records, pictures) that has none of the defects.</p>",
    ]
    if recording and recording.action.shape[1] and len(recording.rows):
        parts.append(f"<h2>Action dimensions</h2>{_dimensions(recording)}")
    for file, title in _PLOTS.items():
        if file in pictures:
            data = base64.b64encode(pictures[file]).decode()
            parts.append(f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64,{data}'>")
    return "".join([*parts, "</body></html>\n"])


def _findings(examination: Examination) -> str:
    rows = [
        f"<tr><td>{html.escape(finding.name)}</td><td>{html.escape(finding.text)}</td>"
        f"<td class='n'>{100 * finding.score:.4g}%</td>"
        f"<td><span class='mark {finding.severity}'>{finding.severity}</span></td></tr>"
        for finding in examination.findings
    ]
    head = "<tr><th>Check</th><th>What was found</th><th class='n'>Sound</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _dimensions(recording: Recording) -> str:
    values = recording.action[recording.rows].astype(np.float64)
    low, high = recording.quantiles
    columns = (values.min(0), low, values.mean(0), high, values.max(0), values.std(0))
    rows = []
    for k, name in enumerate(recording.names):
        unit = recording.spec.units[k] if recording.spec else "as stored"
        cells = "".join(f"<td class='n'>{column[k]:.4g}</td>" for column in columns)
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{html.escape(unit)}</td>{cells}</tr>")
    titles = ("Smallest", "q01", "Mean", "q99", "Largest", "Deviation")
    head = "".join(f"<th class='n'>{title}</th>" for title in titles)
    return f"<table><tr><th>Name</th><th>Unit</th>{head}</tr>{''.join(rows)}</table>"
