"""A pretrained checkpoint: what it holds, what of it fits a model, and its way into parameters."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
from flax import nnx

from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, PathText
from vla_jax.models.pretrained import filling, table
from vla_jax.models.pretrained.architecture import Architecture, infer
from vla_jax.models.pretrained.files import Files, open_files
from vla_jax.models.pretrained.table import Entry, Family
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig

Parts = Literal["all", "vision", "text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig(Checked):
    """What a model starts from.

    Attributes:
      path: a released checkpoint, see `files.open_files`, or the workdir of a run, whose newest
        parameters and tokenizer are taken; None starts from nothing.
      parts: what is taken from it: `all`, the `vision` tower(s), or `text`, the language model with
        its embedding. The rest starts from random values.
    """

    path: PathText | None = None
    parts: Parts = "all"


PREFIXES = {
    "all": (
        *("vision/", "fused_vision/", "projector/", "decoder/"),
        *("state/", "action_head/", "film/", "fused_film/"),  # OpenVLA-OFT's
    ),
    "vision": ("vision/", "fused_vision/"),
    "text": ("decoder/",),
}
# What a model may choose for itself, whatever the checkpoint says.
_FREE = re.compile(
    r"config\.(dtype|param_dtype|remat|unroll|backend|attention|images|state"
    r"|(fused_)?vision\.(image_size|pool|features)"
    r"|decoder\.(final_softcap|window))"
)
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Problems:
    """What keeps a checkpoint from filling a model.

    Attributes:
      missing: tensors that the model needs and the files lack.
      unexpected: tensors in the files that the model has no place for.
      misshaped: tensors of another shape or kind, with what was expected and found.
      unfilled: parameters of the model that no tensor of this family holds.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    unfilled: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns one line per kind of problem; none if all is well."""
        return [
            f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}"
            + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            for kind, names in dataclasses.asdict(self).items()
            if names
        ]


class Weights:
    """An opened checkpoint, of which only headers are read until `read`.

    Args:
      path: see `files.open_files`.
      given: see `architecture.infer`.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or of no known family.
    """

    # The weights of a run bring these along, too.
    tokenizer = None
    kept_rows = 0

    def __init__(self, path: str | os.PathLike[str], given: VLMConfig | None = None):
        self.path = os.fspath(path)
        self.files: Files = open_files(path)
        self.architecture: Architecture = infer(self.files, given)

    @property
    def config(self) -> VLMConfig:
        """The model that the checkpoint holds, in the dtype of its files."""
        half = {str(tensor.dtype) for tensor in self.files.tensors.values()} == {"bfloat16"}
        dtype = "bfloat16" if half else "float32"
        return dataclasses.replace(
            self.architecture.config, dtype=dtype, param_dtype=dtype, remat="none"
        )

    @property
    def family(self) -> Family:
        """The key table of the model that it holds."""
        return self.architecture.table(self.config)

    @property
    def vocabulary(self) -> int:
        """Rows of its embedding; 0 if it has no text part."""
        names = self.files.tensors
        for piece in self.family.pieces:
            for row in piece.rows:
                name = piece.root(names) + row.theirs
                if row.ours == "embedding" and name in names:
                    return names[name].shape[0]
        return 0

    def leaves(self, config: VLMConfig) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the parameters of a model with as many rows of embedding, by name."""
        rows = max(self.vocabulary, 1)
        model = nnx.eval_shape(lambda: VLM(config, rows, nnx.Rngs(0)))
        return trees.named_leaves(nnx.to_pure_dict(nnx.state(model)))

    def differences(self, config: VLMConfig, parts: Parts = "all") -> list[str]:
        """Lists the fields in which a model is of another size or kind than the checkpoint.

        Args:
          config: the model.
          parts: which parts count, of those that the checkpoint has.
        """
        old, new = (config_lib.to_json(c) for c in (self.config, config))
        fields = {"vision": r"(fused_)?vision\b", "text": r"decoder\b", "all": ""}
        held = self.architecture.parts
        if parts == "all" and held != ("vision", "projector", "text"):
            parts = "vision" if "vision" in held else "text"
        wanted = re.compile(rf"config\.{fields[parts]}")
        return [
            line
            for line in config_lib.differences(old, new)
            if wanted.match(line) and not _FREE.match(line)
        ]

    def check(self, config: VLMConfig, parts: Parts = "all", name: str = "the model") -> None:
        """Refuses a model that is not that of the checkpoint.

        Raises:
          UserError: names the fields, `checkpoint -> model`.
        """
        if parts != "all" and parts not in self.architecture.parts:
            raise UserError(
                f"checkpoint {self.path}: {self.family.name}",
                expected=f"a {parts} part",
                found=f"only {', '.join(self.architecture.parts)}",
            )
        if lines := self.differences(config, parts):
            raise UserError(
                f"checkpoint {self.path} ({self.family.name}) is not {name}: {'; '.join(lines)}",
                fix="Write the checkpoint's value, on the left, into the model",
            )

    def problems(
        self, config: VLMConfig, leaves: Mapping[str, Any], parts: Parts = "all"
    ) -> Problems:
        """Compares names and shapes of the files with those that a model needs.

        Args:
          config: the model.
          leaves: its parameters by name, anything with a shape.
          parts: which of them are wanted.
        """
        entries = self._entries(config, leaves, parts)
        tensors = self.files.tensors
        named = {entry.name for entry in entries}
        filled = {place.leaf for entry in entries for place in entry.places}
        misshaped = [
            f"{entry.name} (expected {entry.shape}, found {tensors[entry.name].shape} "
            f"{tensors[entry.name].kind})"
            for entry in entries
            if entry.name in tensors and not filling.fits(entry, tensors[entry.name])
        ]
        return Problems(
            missing=tuple(entry.name for entry in entries if entry.name not in tensors),
            unexpected=tuple(self._unexpected(config, named, parts)),
            misshaped=tuple(misshaped),
            unfilled=tuple(leaf for leaf in self._wanted(leaves, parts) if leaf not in filled),
        )

    def require(
        self,
        config: VLMConfig,
        parts: Parts = "all",
        leaves: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuses a model that the checkpoint cannot fill; see `problems`.

        Args:
          config: the model.
          parts: which of it is wanted.
          leaves: its parameters; None for a model with as many rows of embedding.

        Raises:
          UserError: names every tensor that is missing, unexpected or of another shape.
        """
        leaves = self.leaves(config) if leaves is None else leaves
        if lines := self.problems(config, leaves, parts).lines():
            raise UserError(
                f"checkpoint {self.path} ({self.family.name}) does not fit: {'; '.join(lines)}"
            )

    def read(
        self, config: VLMConfig, abstract: Mapping[str, jax.ShapeDtypeStruct], parts: Parts = "all"
    ) -> dict[str, jax.Array]:
        """Reads parameters straight into their place, tensor by tensor.

        Host memory holds one parameter of this process's devices and the part of a tensor that is
        being copied, besides what is done.

        Args:
          config: the model.
          abstract: its parameters by name, with dtype and sharding (the default device if None).
          parts: which are wanted.

        Returns:
          The wanted parameters by name.

        Raises:
          UserError: see `require`.
        """
        self.require(config, parts, abstract)
        sources: dict[str, list[tuple[Entry, int]]] = {}
        for entry in self._entries(config, abstract, parts):
            for number, place in enumerate(entry.places):
                sources.setdefault(place.leaf, []).append((entry, number))
        return {
            leaf: filling.fill(abstract[leaf], found, self.files.tensors)
            for leaf, found in sources.items()
        }

    def _wanted(self, leaves: Iterable[str], parts: Parts) -> list[str]:
        """Returns the names of parameters of the parts that are wanted and there."""
        held = tuple(piece.prefix for piece in self.family.pieces)
        return [
            leaf for leaf in leaves if leaf.startswith(PREFIXES[parts]) and leaf.startswith(held)
        ]

    def _entries(self, config: VLMConfig, leaves: Mapping[str, Any], parts: Parts) -> list[Entry]:
        wanted = {leaf: tuple(leaves[leaf].shape) for leaf in self._wanted(leaves, parts)}
        return table.entries(self.architecture.table(config), wanted, self.files.tensors)

    def _unexpected(self, config: VLMConfig, named: set[str], parts: Parts) -> Iterable[str]:
        family, names = self.architecture.table(config), self.files.tensors
        is_wanted = [piece.prefix in PREFIXES[parts] for piece in family.pieces]
        pieces = list(zip(family.pieces, is_wanted, strict=True))
        roots = tuple(piece.root(names) for piece, wanted in pieces if wanted)
        # Tensors of the other parts may stand behind the same root.
        others = [
            re.escape(piece.root(names) + row.theirs).replace(r"\{\}", r"\d+")
            for piece, wanted in pieces
            if not wanted
            for row in piece.rows
        ]
        known = re.compile("|".join(["", *family.ignored, *others]))
        for name in sorted(names):
            is_near = parts == "all" or name.startswith(roots)
            if name not in named and is_near and not known.fullmatch(name):
                yield name


def with_own_numerics(named: VLMConfig, own: VLMConfig) -> VLMConfig:
    """Takes from a checkpoint's config what a released size says nothing of."""
    decoder = dataclasses.replace(
        named.decoder,
        final_softcap=own.decoder.final_softcap,
        norm_epsilon=own.decoder.norm_epsilon,
    )
    return dataclasses.replace(named, decoder=decoder)
