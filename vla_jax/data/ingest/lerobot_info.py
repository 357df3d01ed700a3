"""`meta/info.json` of a LeRobot dataset: features, and where files lie.

Source: huggingface/lerobot, src/lerobot/datasets (dataset_metadata.py, io_utils.py, utils.py).
"""

import math
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vla_jax.core import json_file, paths
from vla_jax.core.errors import UserError, listed

ACTIONS = ("action", "actions")  # the first is LeRobot's, the second that of openpi's sets
REWARD, DONE = "next.reward", "next.done"
_INDEX = {"timestamp", "frame_index", "episode_index", "index", "task_index", DONE}
_WRITTEN = {"language_instruction", "discount", "is_first", "is_last", "is_terminal"}
_NUMBER = re.compile(r"float(16|32|64)|u?int(8|16|32|64)|bool")
_PATHS = {
    2: {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
    },
    3: {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    },
}
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Feature(msgspec.Struct):
    """What one feature is."""

    dtype: str
    shape: list[_Positive]
    names: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def is_depth(self) -> bool:
        """Whether it is a depth map."""
        said = {**(self.video_info or {}), **(self.info or {})}
        return bool(said.get("is_depth_map") or said.get("video.is_depth_map"))

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns of an image; None where the shape is not one of RGB."""
        if len(self.shape) != 3 or 3 not in (self.shape[0], self.shape[2]):
            return None
        first = self.shape[2] != 3 or (
            isinstance(self.names, list) and str(self.names[:1]).startswith("['channel")
        )
        rows, columns = self.shape[1:] if first else self.shape[:2]
        return rows, columns


class Info(msgspec.Struct):
    """The fields of `info.json` that are read."""

    codebase_version: str
    fps: Annotated[float, msgspec.Meta(gt=0)]
    features: dict[str, Feature]
    robot_type: str | None = None
    data_path: str | None = None
    video_path: str | None = None
    chunks_size: _Positive = 1000
    total_episodes: _Count | None = None
    total_frames: _Count | None = None
    total_tasks: _Count | None = None

    @property
    def major(self) -> int:
        """2 or 3, the major version of the format."""
        return int(self.codebase_version[1])


def read(root: Path) -> Info:
    """Reads and checks it.

    Raises:
      UserError: it is missing, no LeRobot dataset of format v2 or v3, or a field is not what it
        should be; names the field.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file", expected="the folder of a LeRobot dataset of format v2 or v3"
        )
    info = json_file.read(path, Info, fix="Fetch the dataset again")
    if not re.match(r"v[23]\.", info.codebase_version):
        raise UserError(
            f"{path}, field codebase_version", expected="v2.x or v3.x", found=info.codebase_version
        )
    if not math.isfinite(info.fps):
        raise UserError(f"{path}, field fps", expected="a finite number", found=info.fps)
    for key, form in info.features.items():
        paths.below(root, key, f"{path}: the name of a feature")
        if re.match(r"float|u?int|bool", form.dtype) and not _NUMBER.fullmatch(form.dtype):
            raise UserError(
                f"{path}, feature {key}, dtype",
                expected="one of numpy's, such as float32",
                found=repr(form.dtype[:40]),
            )
    if not any(key in info.features for key in ACTIONS):
        raise UserError(
            f"{path}: no feature is called {' or '.join(ACTIONS)}",
            found=listed(info.features) or "no features",
            fix="Rename the one that is the action, there and in the tables of steps",
        )
    action = info.features[action_key(info)]
    if not _NUMBER.fullmatch(action.dtype):
        raise UserError(f"{path}, feature action, dtype", expected="numbers", found=action.dtype)
    for field in ("data_path", "video_path"):
        _check_template(info, field, path)
    return info


def action_key(info: Info) -> str:
    """Returns the key of the feature that is the action."""
    return next(key for key in ACTIONS if key in info.features)


def _check_template(info: Info, field: str, path: Path) -> None:
    """Refuses places in a path that are not numbers or the camera: format can do a lot more."""
    known = set(re.findall(r"{(\w+)", _PATHS[info.major][field])) | {"video_key"}
    template = template_of(info, field)
    try:
        places = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{path}, field {field}: {error}") from error
    for _, name, spec, conversion in places:
        if name is None:
            continue
        if name not in known or conversion or not re.fullmatch(r"(0?\d{1,2}d?)?", spec or ""):
            raise UserError(
                f"{path}, field {field}",
                expected=f"{{places}} such as {_PATHS[info.major][field]}",
                found=template[:200],
            )


def template_of(info: Info, field: str) -> str:
    """Returns `data_path` or `video_path`, the format's own where the file has none."""
    return getattr(info, field) or _PATHS[info.major][field]


def path_of(root: Path, info: Info, field: str, places: Mapping[str, Any]) -> Path:
    """Returns a file of data or video.

    Args:
      root: the dataset's folder.
      info: its info.
      field: `data_path` or `video_path`.
      places: what stands for the places of the template.

    Raises:
      UserError: it would lie outside of the dataset's folder, or a place has nothing to stand for.
    """
    what = f"{root / 'meta' / 'info.json'}, field {field}"
    try:
        name = template_of(info, field).format(**places)
    except (KeyError, ValueError) as error:
        raise UserError(f"{what}: cannot be filled in ({error!r})") from error
    return paths.below(root, name, what)


def is_read(key: str, form: Feature) -> bool:
    """Whether a feature is RGB or numbers; index columns and depth maps are neither."""
    if key in _INDEX or key in _WRITTEN or form.is_depth:
        return False
    return form.dtype in ("video", "image") or bool(_NUMBER.fullmatch(form.dtype))


def left_out(info: Info) -> list[str]:
    """Returns the keys of the features that are neither read nor indices, sorted."""
    return sorted(
        key for key, form in info.features.items() if key not in _INDEX and not is_read(key, form)
    )


def names(features: Mapping[str, Feature], action: str, path: Path) -> dict[str, str]:
    """Names the RLDS features: `observation.images.top` becomes `observation/top`.

    Args:
      features: those that are read.
      action: the key of the one that is the action.
      path: of `info.json`, for messages.

    Raises:
      UserError: two would have one name, or one the name of the folder of another.
    """
    found: dict[str, str] = {}
    for key in features:
        level, _, rest = key.partition(".")
        if key in (REWARD, action):
            name = "reward" if key == REWARD else "action"
        elif level == "observation" and rest:
            name = f"observation/{rest.removeprefix('images.').replace('.', '_').replace('/', '_')}"
        else:
            name = key.replace(".", "_").replace("/", "_")
        for other, taken in found.items():
            if name == taken or f"{name}/".startswith(f"{taken}/") or taken.startswith(f"{name}/"):
                raise UserError(
                    f"{path}: features {other} and {key} would both be called {name}",
                    fix="Rename one in meta/info.json and in the data",
                )
        found[key] = name
    return found
