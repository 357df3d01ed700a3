"""LoRA: a trained matrix is the base's plus (alpha / r) A B, for chosen leaves of the parameters.

Source: Hu et al. 2021; huggingface/peft:src/peft/tuners/lora (initialisation, scale). Adapters are
a tree of their own, `decoder/blocks/query/{a,b}`, stacked and sharded as the leaves they belong to.
Everything here is a pure function of trees: `join` gives parameters that layers multiply by without
adding A B to W (`kernels.py`), which is how a run is trained; `merge` adds it, for export.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from vla_jax.core import trees
from vla_jax.core.arrays import Array
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Positive, Range
from vla_jax.models import kernels

# What PEFT's `all-linear` means: every matrix of towers, projector and decoder; neither embedding
# nor output head, and no convolution, which the projection of patches is there.
ALL_LINEAR = r"(.*/)?(query|key|value|out|gate|up|down|kernel\d+)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig(Checked):
    """Which matrices are adapted, and how.

    Attributes:
      rank: r, columns of A and rows of B.
      alpha: A B counts alpha / r times.
      targets: `all-linear`, or a regular expression over whole leaf names (`core/trees.py`).
    """

    rank: Annotated[int, Range(1, 2**17)] = 32
    alpha: Positive = 16.0
    targets: str = "all-linear"

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Factors:
    """How one parameter is taken apart: `einsum` makes the parameter's shape of A and B."""

    einsum: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    axes: tuple[tuple[str, ...], tuple[str, ...]]
    fan_in: int


class Lora:
    """The adapters of one model.

    Args:
      params: nested dict of parameters, arrays or `jax.ShapeDtypeStruct`.
      axes: their logical axes (`vlm.logical_axes`).
      config: what is adapted.

    Raises:
      UserError: the pattern matches nothing, or something that is no matrix.
    """

    def __init__(self, params: Any, axes: Any, config: LoraConfig):
        self.config = config
        pattern = ALL_LINEAR if config.targets == "all-linear" else config.targets
        self._factors: dict[str, _Factors] = {}

        def collect(name: str, leaf: Any, chosen: bool, names: tuple[str, ...]) -> None:
            if chosen:
                self._factors[name] = _factors(name, leaf.shape, names, config.rank)

        trees.map_with_name(collect, params, trees.mask(params, pattern), axes)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the adapted parameters."""
        return tuple(self._factors)

    def init(self, key: Array) -> dict[str, Any]:
        """Returns new adapters, float32: A uniform within 1/sqrt(inputs), B zero."""
        keys = jax.random.split(key, len(self._factors))
        out = {}
        for each, (name, factors) in zip(keys, self._factors.items(), strict=True):
            a, b = factors.shapes
            bound = factors.fan_in**-0.5
            out[f"{name}/a"] = jax.random.uniform(each, a, minval=-bound, maxval=bound)
            out[f"{name}/b"] = jnp.zeros(b)
        return trees.nest(out)

    def abstract(self) -> dict[str, Any]:
        """Returns shapes and dtypes of the adapters."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def logical_axes(self) -> dict[str, Any]:
        """Returns the tree of logical axis names of the adapters, for `runtime.sharding`."""
        return trees.nest(
            {
                f"{name}/{part}": axes
                for name, factors in self._factors.items()
                for part, axes in zip("ab", factors.axes, strict=True)
            }
        )

    def join(self, params: Any, adapters: Any) -> Any:
        """Returns the parameters with `kernels.LowRank` for those that are adapted.

        Args:
          params: the base; its matrices may be `kernels.Quantized`.
          adapters: values, as `init` returns them.
        """
        named = trees.named_leaves(adapters)

        def put(name: str, leaf: Any) -> Any:
            if name not in self._factors:
                return leaf
            a, b = (named[f"{name}/{part}"] for part in "ab")
            return kernels.LowRank(base=leaf, a=a, b=b, scale=self.config.scale)

        return trees.map_with_name(put, params, is_leaf=kernels.is_quantized)

    def merge(self, params: Any, adapters: Any) -> Any:
        """Returns the parameters with the adapters in them, each in its own dtype."""
        named = trees.named_leaves(adapters)

        def add(name: str, leaf: Array) -> Array:
            factors = self._factors.get(name)
            if factors is None:
                return leaf
            a, b = (named[f"{name}/{part}"] for part in "ab")
            delta = jnp.einsum(factors.einsum, a, b, precision="highest")
            return (leaf.astype(jnp.float32) + self.config.scale * delta).astype(leaf.dtype)

        return trees.map_with_name(add, params)


def _factors(name: str, shape: tuple[int, ...], axes: tuple[str, ...], rank: int) -> _Factors:
    """Splits the axes of a parameter into layers, inputs and outputs."""
    layers = int(axes[0] == "layers")
    inside = kernels.inputs(axes)
    if inside is None or name.endswith("embedding"):
        raise UserError(
            f"config.strategy.lora.targets: {name}",
            expected="matrices that features are multiplied by",
            found=f"an array with axes {', '.join(axes)}",
        )
    outside = [i for i in range(layers, len(shape)) if i not in inside]
    a = [*range(layers), *inside]
    letters = "abcd"[: len(shape)]
    a_letters = "".join(letters[i] for i in a) + "r"
    b_letters = letters[:layers] + "r" + "".join(letters[i] for i in outside)
    return _Factors(
        einsum=f"{a_letters},{b_letters}->{letters}",
        shapes=(
            (*(shape[i] for i in a), rank),
            (*shape[:layers], rank, *(shape[i] for i in outside)),
        ),
        axes=(
            (*(axes[i] for i in a), "rank"),
            (*axes[:layers], "rank", *(axes[i] for i in outside)),
        ),
        fan_in=math.prod(shape[i] for i in inside),
    )
