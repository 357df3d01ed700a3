"""`load`: a released checkpoint as a model that runs."""

import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np
from flax import nnx

from vla_jax.core import trees
from vla_jax.core.arrays import Array, Float, Int, UInt8
from vla_jax.core.errors import UserError, nearest
from vla_jax.models import variants
from vla_jax.models.decoder import Decoder
from vla_jax.models.pretrained.weights import Weights, with_own_numerics
from vla_jax.models.vit import ViT
from vla_jax.models.vlm import VLM, logical_axes
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A loaded model.

    Attributes:
      config: its sizes.
      vocabulary: rows of its embedding, 0 without a text part.
      parts: what the checkpoint had: `vision`, `projector`, `text`.
      graph: the VLM's structure; `nnx.merge(graph, params)` is the module, if it is whole.
      params: its parameters, nested dicts.
    """

    config: VLMConfig
    vocabulary: int
    parts: tuple[str, ...]
    graph: nnx.GraphDef
    params: Any

    def logits(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int | None = None,
        **more: Array,
    ) -> Float[Array, "b n v"]:
        """Returns float32 logits of every suffix slot, teacher-forced; compiled per shape.

        Args:
          images: 0..255.
          tokens: `prefix` slots, each row's prefix at their right end, then the suffix.
          prefix_length: valid tokens of each row's prefix.
          prefix: slots of the prefix; the longest prefix if None.
          **more: what else `VLM.hidden` takes.

        Raises:
          UserError: the checkpoint was one part of a model.
        """
        if len(self.parts) < 3:
            raise UserError(
                "logits", expected="a whole model", found=f"only {', '.join(self.parts)}"
            )
        slots = int(np.max(prefix_length)) if prefix is None else prefix
        return _logits(self.graph, self.params, images, tokens, prefix_length, slots, more)

    def tower(self) -> ViT:
        """Returns the vision tower by itself."""
        return self._module("vision")

    def decoder(self) -> Decoder:
        """Returns the language model by itself."""
        return self._module("decoder")

    def _module(self, name: str) -> Any:
        if name not in self.params:
            raise UserError(name, expected="a checkpoint with it", found=", ".join(self.parts))
        graph, _ = nnx.split(getattr(_abstract(self.config, self.vocabulary), name))
        return nnx.merge(graph, self.params[name])


def load(
    path: str | os.PathLike[str],
    variant: str | VLMConfig | None = None,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> Pretrained:
    """Loads a released checkpoint.

    Args:
      path: see `files.open_files`.
      variant: a name of `variants.variants()` or sizes, against which the checkpoint is checked
        and which chooses resolution and dtypes; None takes all from the checkpoint.
      mesh: spreads the parameters over its devices; None puts them on the first.

    Raises:
      UserError: the checkpoint is damaged, of another kind, or not the variant; all differences
        are named.
    """
    given = _named(variant) if isinstance(variant, str) else variant
    weights = Weights(path, given)
    config = weights.config
    if given is not None:
        is_named = isinstance(variant, str)
        config = with_own_numerics(given, config) if is_named else given
        weights.check(config, name=variant if is_named else "the model")
    model = _abstract(config, weights.vocabulary)
    graph, state = nnx.split(model)
    abstract = nnx.to_pure_dict(state)
    if mesh is not None:
        places = sharding.shardings(abstract, logical_axes(model), mesh)
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract,
            places,
        )
    parts = weights.architecture.parts
    if config.state and "projector" in parts:
        raise UserError(
            f"checkpoint {path}: state={config.state}",
            expected="0, no released model takes one",
            found=config.state,
            fix="Train from the checkpoint with config.pretrained: what it lacks starts at random",
        )
    found = weights.read(config, trees.named_leaves(abstract))
    return Pretrained(config, weights.vocabulary, parts, graph, trees.nest(found))


def _named(name: str) -> VLMConfig:
    known = variants.variants()
    if name not in known:
        raise UserError(
            f"no model is called {name!r}",
            expected=", ".join(sorted(known)),
            fix=nearest(name, list(known)),
        )
    return known[name]


def _abstract(config: VLMConfig, vocabulary: int) -> VLM:
    return nnx.eval_shape(lambda: VLM(config, max(vocabulary, 1), nnx.Rngs(0)))


@functools.partial(jax.jit, static_argnames=("graph", "slots"))
def _logits(
    graph: nnx.GraphDef,
    params: Any,
    images: Array,
    tokens: Array,
    length: Array,
    slots: int,
    more: dict[str, Array],
) -> Array:
    return nnx.merge(graph, params).logits(images, tokens, length, slots, **more)
