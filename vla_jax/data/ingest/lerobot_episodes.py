"""Where each episode of a LeRobot dataset lies, and what the metadata say of it.

Source: huggingface/lerobot, src/lerobot/datasets (v3: dataset_metadata.py; v2: the same at
v0.3, datasets/utils.py).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.data.ingest import lerobot_info
from vla_jax.data.ingest.film import Span
from vla_jax.data.ingest.lerobot_info import Info
from vla_jax.data.ingest.parquet import Kind, Tables

Statistics = Mapping[str, Mapping[str, Any]]  # feature -> min, max, mean, count

_AGAIN = "meta and data contradict each other: fetch the dataset again"
_FETCH = "Fetch the dataset again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What the metadata say of one episode.

    Attributes:
      number: its `episode_index`.
      length: its steps.
      data: the file of its steps.
      first: the first of its rows in that file.
      rows: rows that the file has in all.
      start: the `index` of its first step; None where the format does not rely on it.
      tasks: its instructions; None where the metadata do not say.
      films: camera -> where its frames are.
      statistics: of its features, empty where the metadata have none.
    """

    number: int
    length: int
    data: Path
    first: int
    rows: int
    start: int | None
    tasks: Sequence[str] | None
    films: Mapping[str, Span]
    statistics: Statistics


def read(root: Path, info: Info, cameras: Sequence[str], tables: Tables) -> list[Entry]:
    """Reads them, in order, and compares their numbers with those of `info.json`.

    Args:
      root: the dataset's folder.
      info: what its `info.json` says.
      cameras: the features that are filmed.
      tables: reads parquet files.

    Raises:
      UserError: a file is missing or damaged, or the numbers contradict each other.
    """
    if info.major == 2:
        entries = _read_v2(root, info, cameras)
    else:
        entries = _read_v3(root, info, cameras, tables)
    steps = sum(entry.length for entry in entries)
    for field, found in (("total_episodes", len(entries)), ("total_frames", steps)):
        said = getattr(info, field)
        if said is not None and said != found:
            raise UserError(
                f"{root / 'meta'}: {field} of info.json and the episodes differ",
                expected=said,
                found=found,
                fix=_AGAIN,
            )
    return entries


def _in_order(numbers: Iterable[int], path: Path) -> None:
    """Checks that `episode_index` counts 0, 1, 2, ..."""
    for expected, found in enumerate(numbers):
        if found != expected:
            raise UserError(
                f"{path}: episode {expected} is missing, or one appears twice",
                expected=f"episode_index {expected}",
                found=found,
                fix=_FETCH,
            )


class _Episode(msgspec.Struct):
    episode_index: Annotated[int, msgspec.Meta(ge=0)]
    length: Annotated[int, msgspec.Meta(ge=0)]
    tasks: list[str] | None = None


class _EpisodeStatistics(msgspec.Struct):
    episode_index: int
    stats: dict[str, dict[str, Any]]


def _read_v2(root: Path, info: Info, cameras: Sequence[str]) -> list[Entry]:
    """Format 2: one table and one film per episode and camera."""
    path = root / "meta" / "episodes.jsonl"
    rows = json_file.read_lines(path, _Episode)
    if not rows:
        raise UserError(f"{path}: no episodes", fix="Fetch the whole dataset")
    _in_order((row.episode_index for row in rows), path)
    beside = root / "meta" / "episodes_stats.jsonl"  # since v2.1
    said = json_file.read_lines(beside, _EpisodeStatistics) if beside.exists() else []
    statistics = {row.episode_index: row.stats for row in said}
    entries = []
    for row in rows:
        places = {
            "episode_chunk": row.episode_index // info.chunks_size,
            "episode_index": row.episode_index,
        }

        def place(field: str, key: str, places: Mapping[str, int] = places) -> Path:
            return lerobot_info.path_of(root, info, field, {**places, "video_key": key})

        films = {
            key: Span(path=place("video_path", key), first=0, total=row.length, start=0.0)
            for key in cameras
        }
        entries.append(
            Entry(
                number=row.episode_index,
                length=row.length,
                data=place("data_path", ""),
                first=0,
                rows=row.length,
                start=None,
                tasks=row.tasks,
                films=films,
                statistics=statistics.get(row.episode_index, {}),
            )
        )
    return entries


_V3: dict[str, Kind] = {
    "episode_index": "integers",
    "length": "integers",
    "dataset_from_index": "integers",
    "data/chunk_index": "integers",
    "data/file_index": "integers",
}
_OPTIONAL: dict[str, Kind] = {"dataset_to_index": "integers", "tasks": "lists of texts"}
_FILM: dict[str, Kind] = {
    "chunk_index": "integers",
    "file_index": "integers",
    "from_timestamp": "numbers",
}
_STATISTICS = ("min", "max", "mean", "count")


def _read_v3(root: Path, info: Info, cameras: Sequence[str], tables: Tables) -> list[Entry]:
    """Format 3: tables and films of many episodes each."""
    folder = root / "meta" / "episodes"
    rows = []
    for path in sorted(folder.glob("*/*.parquet")):
        rows += _rows(path, info, cameras, tables)
    if not rows:
        raise UserError(f"{folder}: no episodes", fix="Fetch the whole dataset")
    rows.sort(key=lambda row: row["episode_index"])
    _in_order((row["episode_index"] for row in rows), folder)
    _check_starts(rows, folder)
    data = [_file(root, info, "data_path", "", row, "data") for row in rows]
    firsts, totals = _counted(data, [row["length"] for row in rows])
    spans = {key: _spans(root, info, key, rows, folder) for key in cameras}
    return [
        Entry(
            number=row["episode_index"],
            length=row["length"],
            data=data[e],
            first=firsts[e],
            rows=totals[data[e]],
            start=row["dataset_from_index"],
            tasks=row.get("tasks"),
            films={key: spans[key][e] for key in cameras},
            statistics=row["statistics"],
        )
        for e, row in enumerate(rows)
    ]


def _rows(path: Path, info: Info, cameras: Sequence[str], tables: Tables) -> list[dict[str, Any]]:
    there = tables.names(path)
    kinds = dict(_V3)
    kinds |= {name: kind for name, kind in _OPTIONAL.items() if name in there}
    kinds |= {f"videos/{key}/{name}": kind for key in cameras for name, kind in _FILM.items()}
    statistics: dict[str, Kind] = {
        f"stats/{key}/{name}": "lists of numbers"
        for key, form in info.features.items()
        for name in _STATISTICS
        if len(form.shape) < 2 and there.get(f"stats/{key}/{name}", "").startswith("list")
    }
    columns = tables.columns(path, kinds | statistics)
    rows = []
    for e in range(len(columns["episode_index"])):
        row: dict[str, Any] = {name: columns[name][e] for name in kinds}
        row["statistics"] = {}
        for name in statistics:
            key, statistic = name.removeprefix("stats/").rsplit("/", 1)
            row["statistics"].setdefault(key, {})[statistic] = columns[name][e]
        rows.append(row)
    return rows


def _check_starts(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Compares lengths with where each episode begins and ends among all steps."""
    start = 0
    for row in rows:
        length, what = row["length"], f"{folder}: episode {row['episode_index']}"
        if length < 0:
            raise UserError(f"{what}: length", expected="0 or more", found=length, fix=_AGAIN)
        expected = {"dataset_from_index": start, "dataset_to_index": start + length}
        for name, value in expected.items():
            if row.get(name, value) != value:
                raise UserError(
                    f"{what}: {name}",
                    expected=f"{value}, by the lengths of the episodes",
                    found=row[name],
                    fix=_FETCH,
                )
        start += length


def _counted(files: Sequence[Path], lengths: Sequence[int]) -> tuple[list[int], dict[Path, int]]:
    """Returns where each episode begins in its file, and how long each file is."""
    totals: dict[Path, int] = {}
    firsts = []
    for path, length in zip(files, lengths, strict=True):
        firsts.append(totals.get(path, 0))
        totals[path] = firsts[-1] + length
    return firsts, totals


def _file(
    root: Path, info: Info, field: str, key: str, row: Mapping[str, Any], prefix: str
) -> Path:
    places = {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
    for name, value in places.items():
        if value < 0:
            raise UserError(
                f"{root / 'meta/episodes'}: episode {row['episode_index']}: {prefix}/{name}",
                expected="0 or more",
                found=value,
                fix=_FETCH,
            )
    return lerobot_info.path_of(root, info, field, {**places, "video_key": key})


def _spans(
    root: Path, info: Info, key: str, rows: Sequence[Mapping[str, Any]], folder: Path
) -> list[Span]:
    """Returns where the frames of each episode are in the films of a camera."""
    files = [_file(root, info, "video_path", key, row, f"videos/{key}") for row in rows]
    firsts, totals = _counted(files, [row["length"] for row in rows])
    ends: dict[Path, float] = {}
    spans = []
    for row, path, first in zip(rows, files, firsts, strict=True):
        start = float(row[f"videos/{key}/from_timestamp"])
        # Half a frame: time stamps may drift a little, episodes cannot overlap.
        if not start >= ends.get(path, 0.0) - 0.5 / info.fps:
            raise UserError(
                f"{folder}: episode {row['episode_index']}: videos/{key}/from_timestamp",
                expected=f"{ends.get(path, 0.0):.3f} s or later, when the episode before it ends",
                found=f"{start:.3f} s",
                fix=_FETCH,
            )
        ends[path] = start + row["length"] / info.fps
        spans.append(Span(path=path, first=first, total=totals[path], start=start))
    return spans
