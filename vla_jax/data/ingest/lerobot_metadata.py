"""The `meta` folder of a LeRobot v3 dataset: features, tasks, and where each episode lies.

Source: huggingface/lerobot, src/lerobot/datasets (dataset_metadata.py, io_utils.py, utils.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_jax.core.errors import UserError
from vla_jax.data.ingest.parquet import Tables

REWARD, DONE = "next.reward", "next.done"
_INDEX = {"timestamp", "frame_index", "episode_index", "index", "task_index", DONE}
_NUMBERS = ("float", "int", "uint", "bool")
_PATHS = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
_EPISODE = (
    "episode_index",
    "length",
    "dataset_from_index",
    "data/chunk_index",
    "data/file_index",
)
_IN_VIDEO = ("chunk_index", "file_index", "from_timestamp")


class Metadata:
    """What `meta` says.

    Attributes:
      root: the dataset's folder.
      fps: frames per second.
      features: feature key -> its entry in `info.json`, for those that are read.
      names: the same keys -> the names of the RLDS features.
      left_out: the keys of the others.
      robot: what the robot is called, "" if unsaid.
      episodes: one mapping per episode, in order: its row of `meta/episodes`, and
        `first_of_file`, the number of the first step in its data file.
      tasks: task index -> instruction.
    """

    def __init__(self, root: Path, tables: Tables):
        """Reads it.

        Args:
          root: the folder that holds `meta`.
          tables: reads parquet files.

        Raises:
          UserError: no LeRobot dataset of format v3, or its metadata are damaged.
        """
        info = _info(root)
        self.root = root
        self.fps = float(info["fps"])
        self.robot = str(info.get("robot_type") or "")
        self._info = info
        self.features = {key: form for key, form in info["features"].items() if _is_read(key, form)}
        self.left_out = sorted(info["features"].keys() - self.features.keys() - _INDEX)
        self.ends = DONE in info["features"]
        self.names = _names(self.features, root)
        self.tasks = _tasks(root, tables)
        self.episodes = self._episodes(tables)

    def keys(self, dtype: str) -> list[str]:
        """Returns the keys of the features of a dtype (`video`, `image`)."""
        return [key for key, form in self.features.items() if form["dtype"] == dtype]

    def data_path(self, episode: Mapping[str, Any]) -> Path:
        """Returns the file of an episode's steps."""
        return self._path("data_path", "", episode, "data")

    def video_path(self, episode: Mapping[str, Any], key: str) -> Path:
        """Returns the video of an episode's frames of a camera."""
        return self._path("video_path", key, episode, f"videos/{key}")

    def _path(self, field: str, key: str, episode: Mapping[str, Any], prefix: str) -> Path:
        template = self._info.get(field) or _PATHS[field]
        return self.root / template.format(
            video_key=key,
            chunk_index=episode[f"{prefix}/chunk_index"],
            file_index=episode[f"{prefix}/file_index"],
        )

    def _episodes(self, tables: Tables) -> list[dict[str, Any]]:
        folder = self.root / "meta" / "episodes"
        paths = sorted(folder.glob("*/*.parquet"))
        columns = [
            *_EPISODE,
            *(f"videos/{key}/{name}" for key in self.keys("video") for name in _IN_VIDEO),
        ]
        rows = [row for path in paths for row in tables.whole(path, columns).to_pylist()]
        if not rows:
            raise UserError(f"{folder}: no episodes", fix="Fetch the whole dataset")
        rows.sort(key=lambda row: row["episode_index"])
        first: dict[tuple[int, int], int] = {}
        for row in rows:
            file = row["data/chunk_index"], row["data/file_index"]
            start = row["dataset_from_index"]
            first[file] = min(first.get(file, start), start)
        for row in rows:
            row["first_of_file"] = first[row["data/chunk_index"], row["data/file_index"]]
        return rows


def _info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version, _, _ = str(info["codebase_version"]), info["fps"], info["features"]["action"]
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}", expected="the folder of a LeRobot dataset of format v3"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error})",
            expected="codebase_version, fps and features with an action",
        ) from error
    if not version.startswith("v3."):
        old = version.startswith("v2.")
        raise UserError(
            f"{root}: LeRobot format",
            expected="v3.x",
            found=version,
            fix="Convert it with LeRobot: python -m lerobot.scripts.convert_dataset_v21_to_v30"
            if old
            else None,
        )
    return info


def _is_read(key: str, form: Mapping[str, Any]) -> bool:
    """Whether a feature is RGB or numbers; index columns and depth maps are neither."""
    described = {**(form.get("video_info") or {}), **(form.get("info") or {})}
    if described.get("is_depth_map") or described.get("video.is_depth_map"):
        return False
    dtype = form["dtype"]
    return key not in _INDEX and (dtype in ("video", "image") or dtype.startswith(_NUMBERS))


def _names(features: Mapping[str, Any], root: Path) -> dict[str, str]:
    """Names the RLDS features: `observation.images.top` becomes `observation/top`."""
    names: dict[str, str] = {}
    for key in features:
        level, _, rest = key.partition(".")
        if key == REWARD:
            name = "reward"
        elif level == "observation" and rest:
            name = f"observation/{rest.removeprefix('images.').replace('.', '_')}"
        else:
            name = key.replace(".", "_").replace("/", "_")
        if name in names.values():
            other = next(key for key, taken in names.items() if taken == name)
            raise UserError(
                f"{root}: features {other} and {key} would both be called {name}",
                fix="Rename one in meta/info.json and in the data",
            )
        names[key] = name
    return names


def _tasks(root: Path, tables: Tables) -> dict[int, str]:
    """Reads the instructions; pandas keeps them in an index column of a name of its own."""
    path = root / "meta" / "tasks.parquet"
    rows = tables.whole(path).to_pylist()
    try:
        return {
            row.pop("task_index"): next(value for value in row.values() if isinstance(value, str))
            for row in rows
        }
    except (KeyError, StopIteration) as error:
        raise UserError(
            f"{path}: not the table of tasks",
            expected="a column task_index and one of texts",
            found=", ".join(rows[0]) or "no columns",
        ) from error
