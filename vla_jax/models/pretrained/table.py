"""Key tables: which tensor of another project's file holds which parameters of ours, and how.

A table is data and works in both directions. A `Row` speaks of one tensor, or of one per layer; a
`Piece` puts rows behind a root of theirs and a prefix of ours; a `Family` is a whole checkpoint.
`entries` spells a family out for one model: one `Entry` per tensor, which unpacks the tensor into
our parameters (import) and packs them into the tensor (export).

Layouts are einops patterns from ours to theirs, `"d h k -> (h k) d"`, read backwards on import.
Letters: l layers, d width, h heads (query or key), k head size, m hidden size, p patches,
v vocabulary, i j c rows, columns and channels of a patch, e extra tokens, n what is packed.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import einops
import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor, or one per layer.

    Attributes:
      theirs: its name behind the root; `{}` stands for the number of the layer.
      layout: ours -> theirs. Where the name has `{}` ours is one layer, else the whole parameter.
      ours: the parameter, a leaf name behind the prefix; several are packed along axis n, which
        comes first on our side of the layout. Those of one per layer begin with `blocks/`.
      sizes: axes whose length our shapes do not tell, (name, length).
      span: the part of our first axis that it holds, as a slice; None for all.
      skip: entries on the first axis of ours for which theirs has more, in front (DINOv2's position
        of the class token).
      plus: the name of a tensor whose skipped entries are added on import (DINOv2 again). Such a
        table cannot be written.
    """

    theirs: str
    layout: str
    ours: str | tuple[str, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    span: tuple[int, int | None] | None = None
    skip: int = 0
    plus: str | None = None

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parameters, one or several."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows of one part of a model.

    Attributes:
      roots: what may stand before their names; the first is the one that is written.
      prefix: what stands before our names, such as `vision/`.
      rows: the tensors. A row whose parameter the model lacks does not count.
    """

    roots: tuple[str, ...]
    prefix: str
    rows: tuple[Row, ...]

    def root(self, names: Collection[str] | None) -> str:
        """Returns the root with which most tensors are among `names`; the first if None."""
        if names is None or len(self.roots) == 1:
            return self.roots[0]
        first = [row.theirs.format(0) for row in self.rows]
        return max(self.roots, key=lambda root: sum(root + name in names for name in first))


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
      name: for messages.
      pieces: its parts.
      ignored: regular expressions of whole names of tensors that are not wanted.
    """

    name: str
    pieces: tuple[Piece, ...]
    ignored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in our parameters: a leaf, and an index or slice of its first axis; None for all."""

    leaf: str
    index: int | slice | None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of theirs.

    Attributes:
      name: its whole name.
      shape: its shape.
      places: the parameters that it holds, in the order in which they are packed.
      layout: as in `Row`.
      sizes: the length of every named axis.
      skip: as in `Row`.
      plus: as in `Row`, the whole name.
    """

    name: str
    shape: tuple[int, ...]
    places: tuple[Place, ...]
    layout: str
    sizes: Mapping[str, int]
    skip: int = 0
    plus: str | None = None

    def unpack(self, tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns what `tensor` says of each place; views of it where the layout allows."""
        ours, theirs = self.layout.split(" -> ")
        # The first axis may be longer in the file (other resolution) and follows from the others.
        sizes = {name: n for name, n in self.sizes.items() if name != ours.split()[0]}
        value = einops.rearrange(tensor, f"{theirs} -> {ours}", **sizes)
        value = value[self.skip :]
        return tuple(value) if len(self.places) > 1 else (value,)

    def pack(self, parts: Sequence[Any]) -> Any:
        """Returns the tensor that holds the values of all places (numpy or JAX arrays).

        Raises:
          ValueError: the row has `skip` or `plus`, which no export writes.
        """
        if self.skip or self.plus:
            raise ValueError(f"{self.name} can only be read")
        value = list(parts) if len(self.places) > 1 else parts[0]
        return einops.rearrange(value, self.layout, **self.sizes)


def entries(
    family: Family, leaves: Mapping[str, tuple[int, ...]], names: Collection[str] | None = None
) -> list[Entry]:
    """Spells a family out for one model.

    Args:
      family: the table.
      leaves: the shapes of our parameters by name.
      names: names of the tensors in a file, which decide among roots; None to write.

    Returns:
      One entry per tensor that a checkpoint of this model has.
    """
    out: list[Entry] = []
    for piece in family.pieces:
        root = piece.root(names)
        for row in piece.rows:
            out.extend(_spell(row, root, piece.prefix, leaves))
    return out


def _spell(
    row: Row, root: str, prefix: str, leaves: Mapping[str, tuple[int, ...]]
) -> Iterable[Entry]:
    ours = [prefix + leaf for leaf in row.leaves]
    plus = None if row.plus is None else root + row.plus
    if "{}" not in row.theirs:
        if ours[0] in leaves:
            index = None if row.span is None else slice(*row.span)
            places = tuple(Place(leaf, index) for leaf in ours)
            shape = leaves[ours[0]]
            if index is not None:
                shape = (len(range(*index.indices(shape[0]))), *shape[1:])
                if not shape[0]:
                    return  # a tower without registers
            yield _entry(row, root + row.theirs, places, shape, plus)
        return
    # A tower that takes the features of the layer before the last keeps that one by itself.
    last = [leaf.replace(f"{prefix}blocks/", f"{prefix}unused/") for leaf in ours]
    stacked = leaves[ours[0]][0] if ours[0] in leaves else 0
    for layer in range(stacked):
        places = tuple(Place(leaf, layer) for leaf in ours)
        yield _entry(row, root + row.theirs.format(layer), places, leaves[ours[0]][1:], plus)
    if last[0] in leaves:
        places = tuple(Place(leaf, None) for leaf in last)
        yield _entry(row, root + row.theirs.format(stacked), places, leaves[last[0]], plus)


def _entry(
    row: Row, name: str, places: tuple[Place, ...], shape: tuple[int, ...], plus: str | None
) -> Entry:
    if len(places) > 1:
        shape = (len(places), *shape)
    axes = row.layout.split(" -> ")[0]
    sizes = dict(row.sizes)
    if "(" not in axes:
        sizes |= dict(zip(axes.split(), shape, strict=True))
    their_shape = _packed_shape(row.layout, shape, tuple(sizes.items()))
    if row.skip:
        longer = {axes.split()[0]: shape[0] + row.skip}
        their_shape = _packed_shape(
            row.layout, (shape[0] + row.skip, *shape[1:]), tuple((sizes | longer).items())
        )
    return Entry(name, their_shape, places, row.layout, sizes, row.skip, plus)


@functools.cache
def _packed_shape(
    layout: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...]
) -> tuple[int, ...]:
    abstract = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(lambda x: einops.rearrange(x, layout, **dict(sizes)), abstract).shape
