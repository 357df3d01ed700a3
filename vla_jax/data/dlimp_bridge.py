"""Any `dlimp.DLataset` of trajectories as a mixture source: an Octo or OpenVLA pipeline plugs in.

A DLataset is a stream: it has no example by number and cannot be resumed where it stopped, and its
order differs from run to run. So it is walked once and kept as an RLDS dataset; with a `Robot` that
names the features below, that is a source like any other, shuffled and resumed exactly.

| what | feature |
|---|---|
| image of a view | `steps/observation/VIEW` |
| action | `steps/action` |
| state | `steps/observation/state` |
| instruction | `steps/language_instruction` |

Neither dlimp nor TensorFlow is imported: the walk takes nested dicts of arrays.

Source: kvablack/dlimp, dlimp/dataset.py.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core.errors import UserError, nearest
from vla_jax.data import images as pixels
from vla_jax.data.ingest import rlds
from vla_jax.data.ingest.encoding import Encoder, intact
from vla_jax.data.ingest.episode import Checks, Episode

_INFINITE = -1  # what tf.data says of the length of a dataset that repeats for ever


def spool(
    dataset: Iterable[Mapping[str, Any]],
    directory: str | os.PathLike[str],
    *,
    name: str,
    images: Mapping[str, str],
    action: str,
    instruction: str,
    state: str | None = None,
    fingerprint: str = "",
    lossless: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Keeps a dataset of trajectories on disk; one that is already there is not walked again.

    Args:
      dataset: a DLataset of trajectories, or any iterable of nested dicts of arrays or tensors
        whose first axis is the step. Not flattened to frames, not repeated. Images are encoded
        bytes, kept as they are, or uint8 [t, y, x, 3].
      directory: where spooled datasets are kept; made if missing.
      name: the dataset's name: lower-case letters, digits and _.
      images: view -> key; levels of a key are separated by `/`, as in `observation/image_primary`.
      action: key of the action, [t, ...] numbers.
      instruction: key of the instruction, one text or one per step.
      state: key of the proprioceptive state, [t, ...] numbers.
      fingerprint: any text that changes when the pipeline does, such as a hash of its
        configuration: what its functions do cannot be seen from here, only its element types.
      lossless: encodes uint8 images as PNG, not as JPEG of quality 95.
      on_progress: called with a description, the trajectories done and their total (0: unknown).

    Returns:
      `directory/name/<hash>/1.0.0`, for `indexing.ensure`; the hash is of the arguments, the
      element types and `fingerprint`.

    Raises:
      UserError: a flattened or endless dataset, no such key, an image that is neither, a text that
        is not UTF-8, no step, an unlike trajectory, a number that is not finite; names trajectory
        and step. Nothing is left behind then.
    """
    keys = {"images": dict(images), "action": action, "instruction": instruction, "state": state}
    spec = str(getattr(dataset, "element_spec", ""))
    identity = json.dumps([keys, lossless, fingerprint, spec], sort_keys=True)
    root = Path(directory).expanduser() / name / hashlib.sha256(identity.encode()).hexdigest()[:12]
    path = root / rlds.VERSION
    if path.exists():
        return path
    total = _count(dataset, name)
    read = _Reader(name, keys, Encoder(lossless=lossless))

    def episodes() -> Iterator[Episode]:
        checks = Checks()
        for i, trajectory in enumerate(_walk(dataset)):
            yield checks(read(i, trajectory))
            if on_progress:
                on_progress(f"spool {name}", i + 1, total)

    description = f"A pipeline of trajectories; {json.dumps(keys)}"
    try:
        rlds.write(episodes(), path, name=name, description=description)
    except UserError:
        if not path.exists():  # else a process beside this one was first, and wins
            raise
    return path


class _Reader:
    """Turns trajectories into episodes."""

    def __init__(self, name: str, keys: Mapping[str, Any], encoder: Encoder):
        self._name = name
        self._keys = keys
        self._encode = encoder

    def __call__(self, i: int, trajectory: Mapping[str, Any]) -> Episode:
        place = f"{self._name} trajectory {i}"
        arrays = {"action": self._numbers(trajectory, self._keys["action"], place)}
        if self._keys["state"] is not None:
            state = self._numbers(trajectory, self._keys["state"], place)
            arrays["observation/state"] = state
        return Episode(
            place=place,
            file_path=place,
            images={
                f"observation/{view}": self._images(trajectory, key, place)
                for view, key in self._keys["images"].items()
            },
            arrays=arrays,
            instructions=self._texts(trajectory, place, len(arrays["action"])),
        )

    def _numbers(self, trajectory: Mapping[str, Any], key: str, place: str) -> np.ndarray:
        values = _find(trajectory, key, place)
        if values.dtype.kind not in "fiub" or not values.ndim:
            found = f"{values.dtype} {list(values.shape)}"
            raise UserError(f"{place}: {key}", expected="numbers at each step", found=found)
        with np.errstate(over="ignore"):  # what is too large becomes inf, which the checks name
            return values.astype(np.float32) if values.dtype.kind == "f" else values

    def _images(self, trajectory: Mapping[str, Any], key: str, place: str) -> Sequence[bytes]:
        values = _find(trajectory, key, place)
        if values.ndim == 1 and values.dtype.kind in "OS":
            return [intact(data, f"{key} of {place} step {t}") for t, data in enumerate(values)]
        if values.dtype == np.uint8 and values.ndim == 4:
            return [self._encode(pixels.check(frame, f"{key} of {place}")) for frame in values]
        raise UserError(
            f"{place}: image {key}",
            expected="encoded bytes [steps], or uint8 [steps, rows, columns, 3]",
            found=f"{values.dtype} {list(values.shape)}",
            fix="Spool the trajectories before windows, resizing to floats or flattening",
        )

    def _texts(self, trajectory: Mapping[str, Any], place: str, steps: int) -> Sequence[str]:
        key = self._keys["instruction"]
        values = _find(trajectory, key, place)
        if values.dtype.kind not in "OSU" or values.ndim > 1:
            found = f"{values.dtype} {list(values.shape)}"
            raise UserError(f"{place}: {key}", expected="one text, or one per step", found=found)
        texts = []
        for t, value in enumerate(values.reshape(-1).tolist()):
            try:
                texts.append(value if isinstance(value, str) else value.decode())
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{place} step {t}: {key}", expected="UTF-8", found=repr(value[:40])
                ) from error
        return texts * steps if len(texts) == 1 else texts


def _count(dataset: Any, name: str) -> int:
    """Returns the number of trajectories, 0 where it is not known before the walk."""
    if getattr(dataset, "is_flattened", False):
        raise UserError(
            f"{name}: the dataset is flattened to frames",
            expected="a dataset of trajectories",
            fix="Spool it before .flatten()",
        )
    cardinality = getattr(dataset, "cardinality", None)
    count = int(cardinality()) if cardinality else 0
    if count == _INFINITE:
        raise UserError(
            f"{name}: the dataset has no end",
            expected="each trajectory once",
            fix="Spool it before .repeat(), or bound it with .take(n)",
        )
    return max(count, 0)


def _walk(dataset: Any) -> Iterator[Mapping[str, Any]]:
    as_numpy = getattr(dataset, "as_numpy_iterator", None)
    return iter(as_numpy() if as_numpy else dataset)


def _find(trajectory: Mapping[str, Any], key: str, place: str) -> np.ndarray:
    """Follows the levels of a key; a tensor becomes an array."""
    node: Any = trajectory
    for depth, level in enumerate(key.split("/")):
        names = list(node) if isinstance(node, Mapping) else []
        if level not in names:
            above = "/".join(key.split("/")[:depth])
            raise UserError(
                f"{place}: no {key}",
                expected=f"in {above or 'the trajectory'} one of {', '.join(names) or 'nothing'}",
                fix=nearest(level, names),
            )
        node = node[level]
    return np.asarray(node.numpy() if hasattr(node, "numpy") else node)
