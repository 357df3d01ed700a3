"""OpenVLA-OFT as it is released: OpenVLA's folder, with a file per part beside it.

Sources: openvla-oft:vla-scripts/finetune.py (what is saved), experiments/robot/openvla_utils.py
(what is loaded), prismatic/models/film_vit_wrapper.py; huggingface/peft:src/peft/tuners/lora. The
files are `action_head--STEP_checkpoint.pt`, `proprio_projector--STEP_checkpoint.pt` where there is
proprioception, and with FiLM `vision_backbone--STEP_checkpoint.pt`: both towers with adapters that
are not merged, which take the place of those in the model's own file.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import jax
import numpy as np
from flax import nnx
from msgspec import Meta

from vla_jax.actions.bounds import Bounds, BoundsKind
from vla_jax.core import json_file, paths, trees
from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.models.oft import OFT, OFTConfig
from vla_jax.models.pretrained import oft_towers, storage
from vla_jax.models.pretrained.headers import tensors_of
from vla_jax.models.pretrained.huggingface import both, norm
from vla_jax.models.pretrained.openvla import openvla
from vla_jax.models.pretrained.table import Family, Piece
from vla_jax.models.pretrained.tensors import Tensor
from vla_jax.models.pretrained.weights import Weights
from vla_jax.models.vlm_config import VLMConfig

STATISTICS = "dataset_statistics.json"
NOTE = "vla_jax_oft"  # the field of config.json for what no file of a release says
HEAD, PROPRIO, VISION = "action_head", "proprio_projector", "vision_backbone"


class _Numbers(TypedDict, total=False):
    q01: list[float]
    q99: list[float]
    min: list[float]
    max: list[float]
    mask: list[bool]


class _Statistics(TypedDict, total=False):
    action: _Numbers
    proprio: _Numbers


class _Note(TypedDict, total=False):
    chunk: Annotated[int, Meta(ge=1, le=1024)]
    bounds: BoundsKind


def family(config: VLMConfig) -> Family:
    """Returns the table of all files, with the name of its file before each part's tensors."""
    block = "mlp_resnet_blocks.{}.ffn"
    head = (
        *norm("layer_norm1", "first_norm"),
        *both("fc1", "first", "m d -> d m"),
        *norm(f"{block}.0", "blocks/norm"),
        *both(f"{block}.1", "blocks/linear", "m d -> d m"),
        *norm("layer_norm2", "last_norm"),
        *both("fc2", "last", "m d -> d m"),
    )
    proprio = (*both("fc1", "up", "m d -> d m"), *both("fc2", "down", "m d -> d m"))
    film = tuple(
        row
        for name in ("scale", "shift")
        for row in both(f"blocks.{{}}.{name}", f"blocks/{name}", "m d -> d m")
    )
    base = openvla(config)
    parts = (
        Piece((f"{HEAD}.module.model.", f"{HEAD}.model."), "action_head/", head),
        Piece((f"{PROPRIO}.module.", f"{PROPRIO}."), "state/", proprio),
        Piece(("vision_backbone.featurizer.",), "film/", film),
        Piece(("vision_backbone.fused_featurizer.",), "fused_film/", film),
    )
    return Family("OpenVLA-OFT", (*base.pieces, *parts), base.ignored)


class OFTWeights(Weights):
    """An opened folder, of which only headers are read until `read`.

    Args:
      path: of the model, see `files.open_files`.
      chunk: time steps of a chunk; None for what the folder says, if we wrote it.
      heads: the folder of the other files; None for `path`.
      given: a model that says the heads of towers that are not known ones.

    Raises:
      UserError: a file is missing, damaged, or disagrees with another.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        chunk: int | None = None,
        heads: str | os.PathLike[str] | None = None,
        given: VLMConfig | None = None,
    ):
        super().__init__(path, given)
        self.heads = paths.expand(os.fspath(path if heads is None else heads)).rstrip("/")
        if self.heads.startswith("hf://"):
            self.heads = storage.downloaded(self.heads)
        said = (self.files.config or {}).get(NOTE, {})
        self.note = json_file.convert(said, _Note, f"{self.path}/config.json, field {NOTE}")
        head = _part(self.heads, HEAD)
        proprio = _part(self.heads, PROPRIO, optional=True)
        vision = oft_towers.merged(_part(self.heads, VISION, optional=True))
        dims = self._dims(head)
        up = next((t for name, t in proprio.items() if name.endswith("fc1.weight")), None)
        state = up.shape[-1] if up is not None and up.shape else 0
        config = dataclasses.replace(self.architecture.config, state=state)
        named = {
            f"{part}.{name}": tensor
            for part, tensors in ((HEAD, head), (PROPRIO, proprio))
            for name, tensor in tensors.items()
        }
        tensors = {**self.files.tensors, **vision, **named}
        self.files = dataclasses.replace(self.files, tensors=tensors)
        self.architecture = dataclasses.replace(self.architecture, table=family, config=config)
        self._sizes = {
            "chunk": self._chunk(chunk),
            "dims": dims,
            "film": any(map(oft_towers.FILM.search, vision)),
        }

    @property
    def oft(self) -> OFTConfig:
        """The model that the folder holds."""
        return OFTConfig(vlm=self.config, **self._sizes)

    def leaves(self, config: VLMConfig) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the parameters of the folder's policy with a model of these sizes, by name."""
        oft, rows = dataclasses.replace(self.oft, vlm=config), max(self.vocabulary, 1)
        model = nnx.eval_shape(lambda: OFT(oft, rows, nnx.Rngs(0)))
        return trees.named_leaves(nnx.to_pure_dict(nnx.state(model)))

    def statistics(
        self, kind: BoundsKind | None = None, key: str | None = None
    ) -> tuple[Bounds, Bounds | None]:
        """Reads what normalised numbers stand for.

        Args:
          kind: which statistics are -1 and 1; no file of a release says so. None for what the
            folder says, if we wrote it.
          key: the dataset; None for the only one.

        Returns:
          The bounds of actions, and those of proprioception if the model takes it.

        Raises:
          UserError: there are none, of another dataset alone, or of another size than the model.
        """
        place, found = self._all_statistics()
        key = key or (next(iter(found)) if len(found) == 1 else None)
        if key is None or key not in found:
            near = nearest(key, list(found)) if key else "Give the name of one"
            raise UserError(
                place,
                expected=f"dataset {key}" if key else "one dataset",
                found=listed(found) or "none",
                fix=near,
            )
        chosen: BoundsKind = self._agree("bounds", kind)
        what = f"{place}, field {key}"
        said = json_file.convert(found[key], _Statistics, what)
        action = _bounds(said.get("action", {}), chosen, f"{what}.action", self.oft.dims)
        if not self.config.state:
            return action, None
        return action, _bounds(
            said.get("proprio", {}), chosen, f"{what}.proprio", self.config.state
        )

    def _all_statistics(self) -> tuple[str, dict[str, Any]]:
        """Returns where the statistics of datasets are, and what they are by name."""
        for folder in dict.fromkeys((self.heads, self.path.rstrip("/"))):
            place = f"{folder}/{STATISTICS}"
            if not folder.startswith("hf://") and (found := storage.json_object(place)):
                return place, found
        place = f"{self.path}/config.json, field norm_stats"
        said = (self.files.config or {}).get("norm_stats", {})
        return place, json_file.convert(said, dict[str, Any], place)

    def _agree(self, field: str, given: Any) -> Any:
        """Returns what the caller gives or the folder says of a field of the note."""
        said = self.note.get(field)
        if given is None and said is None:
            raise UserError(
                f"{field} of {self.path}", expected="a value", found="none in its files"
            )
        if None not in (given, said) and given != said:
            raise UserError(
                f"{field} of {self.path}", expected=f"{said} (its config.json)", found=given
            )
        return said if given is None else given

    def _chunk(self, given: int | None) -> int:
        return self._agree("chunk", given)

    def _dims(self, head: Mapping[str, Tensor]) -> int:
        """Returns the numbers of an action, which the head's shapes say twice."""
        what = f"{self.heads}: {HEAD}"
        if any(".noise_predictor." in name for name in head):
            raise UserError(what, expected="a head of L1 regression", found="one of diffusion")
        shapes = {
            end: tensor.shape
            for name, tensor in head.items()
            for end in ("fc1.weight", "fc2.weight")
            if name.endswith(f"model.{end}")
        }
        width = self.architecture.config.decoder.width
        match shapes:
            case {"fc1.weight": (int(out), int(features)), "fc2.weight": (int(dims), _)} if (
                out,
                features,
            ) == (width, dims * width):
                return dims
        raise UserError(
            what,
            expected=f"fc1.weight of ({width}, a x {width}) and fc2.weight of (a, {width})",
            found=", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "neither",
        )


def _part(folder: str, name: str, *, optional: bool = False) -> dict[str, Tensor]:
    """Lists the tensors of the one file of a part; of none if it is optional and not there."""
    system, root = storage.system(folder)
    held = storage.reading(folder, lambda: system.ls(root, detail=False))
    names = [entry.rstrip("/").rpartition("/")[2] for entry in held]
    found = sorted(n for n in names if re.fullmatch(rf"{name}--[^/]*_checkpoint\.pt", n))
    if not found and optional:
        return {}
    if len(found) != 1:
        raise UserError(
            f"checkpoint {folder}",
            expected=f"one file {name}--STEP_checkpoint.pt",
            found=listed(found) or "none",
            fix="Leave that of one step in the folder" if found else None,
        )
    return tensors_of(f"{folder.rstrip('/')}/{found[0]}")


def _bounds(said: _Numbers, kind: BoundsKind, what: str, size: int) -> Bounds:
    names = {"q99": ("q01", "q99"), "minmax": ("min", "max")}[kind]
    mask = said.get("mask", [True] * size)
    for name, values in (
        (names[0], said.get(names[0])),
        (names[1], said.get(names[1])),
        ("mask", mask),
    ):
        count = 0 if values is None else len(values)
        if count != size:
            raise UserError(
                f"{what}.{name}", expected=f"{size} numbers, as the model has", found=count
            )
        json_file.check_finite(values, what, name)
    low, high = (np.asarray(said[name], np.float64) for name in names)
    return Bounds(low=low, high=high, mask=np.asarray(mask, bool))


def note(chunk: int, bounds: BoundsKind) -> dict[str, Any]:
    """Returns the field of config.json that says what no file of a release does."""
    return {NOTE: {"chunk": chunk, "bounds": bounds}}
