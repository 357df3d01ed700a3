"""What a run trains, part by part, and the bytes that takes, before anything is in memory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from vla_jax.core import trees
from vla_jax.experiment.model import Model

HEADER = ("part", "parameters", "trained", "weights", "moments", "gradients", "average")
_GB = 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the model.

    Attributes:
      name: `vision`, `decoder/blocks`, ...
      parameters: of the model.
      trained: how many parameters are updated, adapters among them.
      weights: bytes of everything that is multiplied by, frozen and trained, adapters too.
      moments: bytes of the optimizer's state.
      gradients: bytes, all at once.
      average: bytes of the running average of the parameters.
    """

    name: str
    parameters: int
    trained: int
    weights: int
    moments: int
    gradients: int
    average: int

    def row(self) -> tuple[str, ...]:
        """Returns the cells under `HEADER`."""
        sizes = (self.weights, self.moments, self.gradients, self.average)
        shown = (f"{size / _GB:,.3f} GB" if size else "-" for size in sizes)
        return (self.name, f"{self.parameters:,}", f"{self.trained:,}", *shown)


def parts(model: Model) -> list[Part]:
    """Returns the parts of a model in the order of its parameters, and `total`."""
    state = model.abstract_state()
    names = list(dict.fromkeys(_part(name) for name in trees.named_leaves(model.abstract_params())))
    trees_of = {
        "parameters": model.abstract_params(),
        "trained": state.params,
        "frozen": state.frozen,
        "moments": state.optimizer,
        "average": state.ema,
    }
    leaves = {what: _by_part(tree, names) for what, tree in trees_of.items()}

    def part(name: str, chosen: Sequence[str]) -> Part:
        found = {what: [x for n in chosen for x in of[n]] for what, of in leaves.items()}
        return Part(
            name=name,
            parameters=trees.size(found["parameters"]),
            trained=trees.size(found["trained"]),
            weights=_bytes(found["trained"]) + _bytes(found["frozen"]),
            moments=_bytes(found["moments"]),
            gradients=_bytes(found["trained"]),
            average=_bytes(found["average"]),
        )

    return [*(part(name, [name]) for name in names), part("total", names)]


def _by_part(tree: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """Sorts leaves to the part whose name is in theirs; counters belong to none."""
    out: dict[str, list[Any]] = {name: [] for name in names}
    for name, leaf in trees.named_leaves(tree).items():
        for part in names:
            if f"/{part}/" in f"/{name}/":
                out[part].append(leaf)
                break
    return out


def _part(name: str) -> str:
    """Returns `decoder/blocks`, `decoder/embedding`, ... and the first word of all others."""
    first, *rest = name.split("/")
    return f"{first}/{rest[0]}" if first == "decoder" else first


def _bytes(leaves: Sequence[Any]) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(list(leaves)))
