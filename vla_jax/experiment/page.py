"""The report of a run: gathers what lies in its workdir into one page."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vla_jax.core import config as config_lib
from vla_jax.core import files
from vla_jax.data import ledger
from vla_jax.envs import table
from vla_jax.eval import html, report
from vla_jax.eval.rate import Rate
from vla_jax.eval.record import Record
from vla_jax.experiment import page_files, stored, trials
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.runtime import progress

_REPORT, _ALL = "report.html", "all"


def write(workdir: Workdir, results: Mapping[str, Any] | None = None) -> pathlib.Path:
    """Writes the report of a run, finished or not, from the files in its workdir.

    Args:
      workdir: of the run.
      results: the content of its results.json, where that is still to be written.

    Returns:
      The page's path.

    Raises:
      UserError: there is no run, or a file in it is damaged.
    """
    found = page_files.read(workdir)
    results = results or stored.results(workdir.path)
    own = page_files.evaluation(workdir.path, results or {})
    config = config_lib.to_json(found.config)
    evaluations = [each for each in (own, *found.others) if each.records]
    content = {
        "title": workdir.path.resolve().name,
        "subtitle": _subtitle(config, found.rows, results),
        "evaluations": [_shown(each) for each in evaluations],
        "questions": _questions(results),
        "demonstrations": _demonstrations(results, workdir),
        "charts": _charts(found.rows),
        "mixture": _mixture(found.mixture),
        "changes": _changes(config_lib.to_json(RunConfig()), config),
        "origin": _origin(found.origin),
        "about": _about(results, found.origin),
        "notes": page_files.notes(found, own),
    }
    for note in content["notes"]:
        progress.note(f"report: {note}")
    path = workdir.report
    tiles = _tiles(content["evaluations"], results)
    files.write_whole(path, html.render(content | {"tiles": tiles}).encode())
    return path


def write_evaluation(folder: pathlib.Path, results: Mapping[str, Any]) -> pathlib.Path:
    """Writes the report of an evaluation that has a folder of its own; returns its path."""
    evaluated, own = results["evaluated"], page_files.evaluation(folder, results)
    content = {
        "title": f"{evaluated['checkpoint']} in {results['environment']['name']}",
        "subtitle": ", ".join(f"{k} {v}" for k, v in evaluated.items() if k != "checkpoint"),
        "evaluations": [_shown(own)] if own.records else [],
        "about": _about(results, None),
        "tiles": [],
        **dict.fromkeys(("questions", "demonstrations", "charts", "mixture", "origin")),
        "changes": None,
        "notes": [],
    }
    files.write_whole(folder / _REPORT, html.render(content).encode())
    return folder / _REPORT


def _shown(evaluation: page_files.Evaluation) -> dict[str, Any]:
    """Returns what the page shows of the episodes of one environment."""
    folder, results, records = evaluation.folder, evaluation.results, evaluation.records
    environment = results["environment"]
    films = [folder / f"episodes.{suffix}" for suffix in ("webm", "gif")]
    film = next((path for path in films if path.is_file()), None)
    known = table.ENVIRONMENTS.get(environment["name"])
    leaves = config_lib.leaves({k: v for k, v in environment.items() if v is not None}, "")
    return {
        "title": f"Closed loop: {environment['name']}{evaluation.where}",
        "protocol": known.protocol if known else "",
        "splits": _splits(records),
        "wrong": bool(trials.wrong_block(records)),
        "tasks": _tasks(records),
        "film": html.data_uri(film) if film else None,
        "filmed": results.get("film", []),
        "fingerprint": [(name.removeprefix("."), value) for name, value in leaves],
    }


def _splits(records: Sequence[Record]) -> list[dict[str, Any]]:
    wrong = trials.wrong_block(records)
    groups = {
        split: [record for record in records if record.split == split]
        for split in dict.fromkeys(record.split for record in records)
    }
    if len(groups) > 1:
        groups[_ALL] = list(records)
    return [
        {
            "split": split,
            "success": Rate.of(record.success for record in found),
            "wrong": wrong.get(split),
            "steps": sum(record.steps for record in found) / len(found),
            "total": split == _ALL,
        }
        for split, found in groups.items()
    ]


def _tasks(records: Sequence[Record]) -> dict[str, Any] | None:
    """Returns success per split and task, as cells; None where splits have a single task."""
    rates = {k: v for k, v in trials.success(records).items() if "/" in k}
    names = list(dict.fromkeys(name.partition("/")[2] for name in rates))
    splits = dict.fromkeys(name.partition("/")[0] for name in rates)

    def cell(rate: Rate | None) -> str | None:
        return rate and f"{100 * rate.rate:.0f} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"

    rows = [[split, *(cell(rates.get(f"{split}/{name}")) for name in names)] for split in splits]
    return {"names": names, "rows": rows} if rows else None


def _questions(results: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    kinds = {k: Rate(**rate) for k, rate in (results or {}).get("vqa", {}).items()}
    rows = [{"kind": kind, "rate": rate, "total": False} for kind, rate in kinds.items()]
    if len(kinds) > 1:
        rows.append({"kind": _ALL, "rate": _pooled(kinds.values()), "total": True})
    return rows


def _pooled(rates: Any) -> Rate:
    counts = [(round(rate.rate * rate.episodes), rate.episodes) for rate in rates]
    right, asked = (sum(column) for column in zip(*counts, strict=True))
    return Rate.of([True] * right + [False] * (asked - right))


def _demonstrations(results: Mapping[str, Any] | None, workdir: Workdir) -> list[dict[str, Any]]:
    """Returns a table per robot: dimension, unit, errors, and what is said of its tokens."""
    values = (results or {}).get("open_loop", {})
    written = (results or {}).get("quantisation", {})
    encoder = workdir.load_encoder() if values else None
    tables = []
    for robot, tokens in encoder.actions.items() if encoder else ():
        start = f"{robot}/" if any(name.startswith(f"{robot}/") for name in values) else ""
        spec = tokens.spec

        def row(title: str, unit: str, name: str, start: str = start) -> list[Any]:
            error, right, illegal, nll = (
                values.get(f"{start}{measure}{name}")
                for measure in ("error", "token_accuracy", "illegal", "nll")
            )
            shares = [None if share is None else f"{share:.1%}" for share in (right, illegal)]
            return [title, unit, error, written.get(f"{start}{name[1:]}"), *shares, nll]

        rows = [row(n, u, f"/{n}") for n, u in zip(spec.names, spec.units, strict=True)]
        if any(cell is not None for line in rows for cell in line[2:]):
            header = ["Dimension", "Unit", "Mean error", "Of writing it as tokens"]
            header += ["Tokens right", "Illegal without grammar", "Nats per token"]
            rows.append(row("all", "", ""))
            tables.append({"caption": f"Robot {robot}", "header": header, "rows": rows})
    return tables


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    last: dict[str, float] = {}
    for row in rows:
        last |= row
    charts = []
    for title, (names, svg) in report.panels(rows).items():
        values = ", ".join(f"{name} {last[name]:.3g}" for name in names)
        charts.append({"title": title, "svg": html.drawing(svg), "last": values})
    return charts


def _mixture(found: stored.Mixture | None) -> dict[str, Any] | None:
    if found is None:
        return None
    header = [name.capitalize() for name in ledger.HEADER]
    rows = [entry.row() for entry in found.sources]
    return {"header": header, "rows": rows, "left_out": found.left_out}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns field, old value and new value of the fields that differ."""
    return _columns(config_lib.differences(old, new))


def _columns(differences: Sequence[str]) -> list[tuple[str, str, str]]:
    """Takes lines of `config.differences` apart."""
    columns = []
    for line in differences:
        name, _, values = line.partition(": ")
        old, _, new = values.partition(" -> ")
        columns.append((name, old, new))
    return columns


def _origin(origin: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    changes = _columns(origin["overrides"])
    return {"command": origin["command"], "file": origin["config"], "changes": changes}


def _about(
    results: Mapping[str, Any] | None, origin: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """Says which code trained and which evaluated."""
    rows = []
    for what, found in (("training", origin), ("evaluation", results)):
        code = (found or {}).get("code")
        if code:
            rows.append((f"revision, {what}", code["revision"] or "not a git checkout"))
            versions = ", ".join(f"{name} {v}" for name, v in code["versions"].items())
            rows.append((f"versions, {what}", versions))
    return rows or [("code", "not recorded")]


def _subtitle(
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any] | None,
) -> str:
    steps = config["loop"]["steps"]
    done = rows[-1]["step"] if rows else 0
    train = (results or {}).get("train")
    parts = [f"step {done:,} of {steps:,}", f"seed {config['seed']}"]
    if train:
        parts.append(f"{progress.duration(train['seconds'])} of training")
        parts.append(f"{train['samples_per_s']:,.0f} examples per second")
    return ", ".join(parts)


def _tiles(
    evaluations: Sequence[Mapping[str, Any]], results: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """Returns the few numbers that a reader looks for first."""
    tiles = []

    def add(name: str, rate: Rate) -> None:
        note = f"{rate.low:.0%} to {rate.high:.0%}, {rate.episodes:,} trials"
        tiles.append({"name": name, "value": f"{rate.rate:.1%}", "note": note})

    for evaluation in evaluations[:1]:
        first, *others = [row for row in evaluation["splits"] if not row["total"]]
        add(f"Success, {first['split']}", first["success"])
        if others:
            add("Success, other splits", _pooled([row["success"] for row in others]))
    questions = _questions(results)
    if questions:
        add("Questions answered", questions[-1]["rate"])
    values = (results or {}).get("open_loop", {})
    if "token_accuracy" in values:
        nll = f", {values['nll']:.2g} nats per token" if "nll" in values else ""
        share = f"{values['token_accuracy']:.1%}"
        note = f"on held-out demonstrations{nll}"
        tiles.append({"name": "Action tokens right", "value": share, "note": note})
    return tiles
