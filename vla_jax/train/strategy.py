"""Which parameters are trained, and what the others are meanwhile.

Sources: OpenVLA (arXiv:2406.09246, section 5.3) for the partial strategies, Hu et al. 2021 for
LoRA, Dettmers et al. 2023 for QLoRA.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vla_jax.core import trees
from vla_jax.core.arrays import Array
from vla_jax.models import kernels
from vla_jax.models.lora import ALL_LINEAR, Lora, LoraConfig

Kind = Literal["full", "frozen_vision", "last_layer", "sandwich", "lora", "qlora"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """What is trained.

    Attributes:
      kind: `full`: everything. `frozen_vision`: all but the tower(s). `last_layer`: the decoder's
        last layer, embeddings, head and final norm. `sandwich`: these, tower(s) and projector.
        `lora`: adapters alone. `qlora`: adapters over a base of few bits.
      lora: the adapters.
      quantization: of the base of `qlora`: four bits (NormalFloat4) or eight, in blocks of at most
        64 weights with a float32 scale.

    What is not trained has no moments and sits in the dtype that the model computes in
    (`model.dtype`), its norms and biases in `model.param_dtype`.
    """

    kind: Kind = "full"
    lora: LoraConfig = LoraConfig()
    quantization: kernels.Quantization = "nf4"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parts:
    """Whole names: `trained` matches what is trained, `stack` that of which the last layer is."""

    trained: str
    stack: str = ""


_VISION = r"(fused_)?vision/.*"
_OUTPUT = r"decoder/(embedding|head|norm)"
_STACK = r"decoder/blocks/.*"
_KINDS: Mapping[Kind, _Parts] = {
    "full": _Parts(trained=r".*"),
    "frozen_vision": _Parts(trained=rf"(?!{_VISION}).*"),
    "last_layer": _Parts(trained=_OUTPUT, stack=_STACK),
    "sandwich": _Parts(trained=rf"{_VISION}|projector/.*|state/.*|{_OUTPUT}", stack=_STACK),
    "lora": _Parts(trained=r""),
    "qlora": _Parts(trained=r""),
}


class Strategy:
    """Takes the parameters of one model apart and puts them together.

    Args:
      config: what is trained.
      params: nested dict of `jax.ShapeDtypeStruct`, all parameters.
      axes: their logical axes (`vlm.logical_axes`).
      dtype: what the model computes in.

    Raises:
      UserError: the adapters' targets match nothing, or something that is no matrix.
    """

    def __init__(self, config: StrategyConfig, params: Any, axes: Any, dtype: Any):
        self.config = config
        self._dtype = jnp.dtype(dtype)
        self._axes = trees.named_leaves(
            jax.tree.map(_Axes, axes, is_leaf=lambda x: isinstance(x, tuple))
        )
        self._dtypes = {name: leaf.dtype for name, leaf in trees.named_leaves(params).items()}
        adapted = config.kind in ("lora", "qlora")
        self.lora = Lora(params, axes, config.lora) if adapted else None
        self.trained, self.frozen = jax.eval_shape(
            lambda params: self.split(params, jax.random.key(0)), params
        )

    def split(self, params: Any, key: Array) -> tuple[Any, Any]:
        """Takes parameters apart.

        Args:
          params: all of them.
          key: draws new adapters.

        Returns:
          What is trained, and what is frozen; a stack of which the last layer is trained is in
          both.
        """
        parts = _KINDS[self.config.kind]
        trained: dict[str, Any] = {}
        frozen: dict[str, Any] = {}
        for name, leaf in trees.named_leaves(params).items():
            in_stack = re.fullmatch(parts.stack, name) is not None
            if re.fullmatch(parts.trained, name) or (in_stack and leaf.shape[0] == 1):
                trained[name] = leaf
            elif in_stack:
                frozen[name], trained[name] = self._freeze(name, leaf[:-1]), leaf[-1:]
            else:
                frozen[name] = self._freeze(name, leaf)
        if self.lora is not None:
            return self.lora.init(key), trees.nest(frozen)
        return trees.nest(trained), trees.nest(frozen)

    def join(self, trained: Any, frozen: Any) -> Any:
        """Returns the parameters as the model computes with them (`models/kernels.py`)."""
        if self.lora is not None:
            return self.lora.join(frozen, trained)
        ours, theirs = trees.named_leaves(trained), trees.named_leaves(frozen)
        return trees.nest(
            {
                name: kernels.Split(first=theirs[name], last=ours[name])
                if name in ours and name in theirs
                else ours.get(name, theirs.get(name))
                for name in self._dtypes
            }
        )

    def merge(self, trained: Any, frozen: Any) -> Any:
        """Returns the parameters as plain arrays, in the dtypes they have in training.

        Adapters are added and stacks closed in float32.
        """
        if self.lora is not None:
            base = jax.tree.map(_wide, frozen, is_leaf=kernels.is_quantized)
            whole = self.lora.merge(base, trained)
        else:
            whole = jax.tree.map(
                lambda leaf: (
                    jnp.concatenate([_wide(leaf.first), _wide(leaf.last)])
                    if isinstance(leaf, kernels.Split)
                    else leaf
                ),
                self.join(trained, frozen),
                is_leaf=lambda leaf: isinstance(leaf, kernels.Split),
            )
        return trees.map_with_name(lambda name, leaf: leaf.astype(self._dtypes[name]), whole)

    @property
    def trained_axes(self) -> Any:
        """The logical axes of what is trained."""
        if self.lora is not None:
            return self.lora.logical_axes()
        return trees.map_with_name(lambda name, _: self._axes[name].names, self.trained)

    @property
    def frozen_axes(self) -> Any:
        """The logical axes of what is frozen."""

        def names(name: str, leaf: Any) -> Any:
            axes = self._axes[name].names
            quantized = kernels.is_quantized(leaf)
            return kernels.quantized_axes(axes, leaf) if quantized else axes

        return trees.map_with_name(names, self.frozen, is_leaf=kernels.is_quantized)

    def load_dtype(self, name: str) -> Any:
        """Returns the dtype in which a parameter of a checkpoint is read: that of its largest part.

        A large frozen model is never held in the dtype of masters.
        """
        is_trained = self.lora is None and name in trees.named_leaves(self.trained)
        return self._dtypes[name] if is_trained else self._frozen_dtype(name)

    def _freeze(self, name: str, leaf: Array) -> Any:
        quantized = self.config.kind == "qlora" and re.fullmatch(ALL_LINEAR, name)
        block = kernels.block(leaf.shape, self._axes[name].names) if quantized else None
        if block is not None:
            return kernels.quantize(leaf, *block, self.config.quantization)
        return leaf.astype(self._frozen_dtype(name))

    def _frozen_dtype(self, name: str) -> Any:
        inside = [axis for axis in self._axes[name].names if axis != "layers"]
        is_matrix = len(inside) > 1 and not name.endswith("bias")
        return self._dtype if is_matrix else self._dtypes[name]


@dataclasses.dataclass(frozen=True)
class _Axes:
    """The names of a parameter's axes, as a leaf of a tree."""

    names: tuple[str | None, ...]


def _wide(leaf: Any) -> Array:
    if kernels.is_quantized(leaf):
        return leaf.dequantize(jnp.float32)
    return leaf.astype(jnp.float32)
