"""[-1, 1] <-> bin index, dimension by dimension.

`uniform` bins are equal intervals, decoded to their centres: 256 bins are 256 intervals with 257
edges, so the error is at most half a bin, 1 / count, and the bias is zero. Other kinds are given by
their centres (`actions/centres.py`), and a value takes the nearest. These depend on the data, so
they are kept with the action space in a run's policy.json, and in an export's.

Conventions of peers, for parity alone: OpenVLA's checkpoints (openvla:prismatic/vla/
action_tokenizer.py) have `count` edges from -1 to 1, so one centre less than there are bins; the
last bin is +1 alone, and decodes to the last centre. RT-1 (robotics_transformer:tokenizers/
action_tokenizer.py) truncates x01 (count - 1) and decodes k / (count - 1), biased low by half a
bin.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from vla_jax.actions import centres
from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Range

Kind = Literal["uniform", "quantile", "mu_law"]
Convention = Literal["uniform", "openvla", "rt1"]
MIN_COUNT, MAX_COUNT = 2, 4096
BinCount = Annotated[int, Range(MIN_COUNT, MAX_COUNT)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinsConfig(Checked):
    """How ranges are cut.

    Attributes:
      count: bins of every dimension, 2..4096. RT-1, RT-2 and OpenVLA use 256.
      kind: where they lie: `uniform`, at each dimension's `quantile`s over the training frames, or
        by `mu_law`, dense around the middle of the range.
      counts: bins of each dimension, in place of `count`; empty for `count` throughout. Dimensions
        that are integers coded as themselves do not look at it.
      convention: `uniform`, or that of `openvla` or `rt1`, for their checkpoints alone. With that
        of OpenVLA the gripper is not stretched from 0..1 to [-1, 1] either.

    Raises:
      UserError: a count is outside 2..4096, or bins of a convention are to lie elsewhere.
    """

    count: BinCount = 256
    kind: Kind = "uniform"
    counts: tuple[BinCount, ...] = ()
    convention: Convention = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.convention != "uniform" and self.kind != "uniform":
            raise UserError(
                f"config.bins.kind with convention={self.convention}",
                expected="uniform",
                found=self.kind,
            )

    @property
    def largest(self) -> int:
        """The most bins that a dimension has: so many token ids are needed."""
        return max(self.counts, default=self.count)

    def counts_of(self, size: int, name: str = "") -> tuple[int, ...]:
        """Returns the bins of each of `size` dimensions.

        Raises:
          UserError: `counts` is of another length; says whose dimensions they are, `name`.
        """
        if self.counts and len(self.counts) != size:
            raise UserError(
                f"config.bins.counts for the actions of {name}",
                expected=f"{size} numbers, one per dimension, or none",
                found=f"{len(self.counts)}: {self.counts}",
            )
        return self.counts or (self.count,) * size


class Bins:
    """The bins of one action space.

    Args:
      counts: bins of each dimension.
      convention: see BinsConfig.
      centres: of each dimension, ascending in [-1, 1]; None for bins of equal width.
    """

    def __init__(
        self,
        counts: Sequence[int],
        convention: Convention = "uniform",
        centres: Sequence[Float[np.ndarray, " n"]] | None = None,
    ):
        self.counts = tuple(counts)
        self.convention: Convention = convention
        self._count = np.asarray(counts, np.int32)
        # As a float, or its product with float32 would be float64, and round otherwise.
        self._factor = self._count.astype(np.float32)
        self._centres = None if centres is None else [np.asarray(c, np.float32) for c in centres]
        if self._centres is not None:
            wide = [c.astype(np.float64) for c in self._centres]
            self._edges = [(c[1:] + c[:-1]) / 2 for c in wide]
            longest = max(counts)
            self._table = np.stack([np.pad(c, (0, longest - len(c))) for c in self._centres])

    def encode(self, x: Float[np.ndarray, "... a"]) -> Int[np.ndarray, "... a"]:
        """Returns the bin of each value: int32 from 0. Values are clipped to [-1, 1]."""
        x = np.clip(x, -1, 1)
        if self._centres is not None:
            index = [np.searchsorted(e, x[..., d], "right") for d, e in enumerate(self._edges)]
            return np.stack(index, axis=-1).astype(np.int32)
        if self.convention == "openvla":
            index = [
                np.digitize(x[..., d], np.linspace(-1, 1, n)) - 1 for d, n in enumerate(self.counts)
            ]
            return np.stack(index, axis=-1).astype(np.int32)
        if self.convention == "rt1":
            return np.trunc((x + 1) / 2 * (self._factor - 1)).astype(np.int32)
        index = np.floor((x + 1) / 2 * self._factor)
        return np.minimum(index, self._factor - 1).astype(np.int32)

    def decode(self, index: Int[np.ndarray, "... a"]) -> Float[np.ndarray, "... a"]:
        """Returns the centre of each bin, float32 in [-1, 1]; beyond the last bin, the last's."""
        index = np.minimum(index, self._count - 1)
        if self._centres is not None:
            return self._table[np.arange(len(self.counts)), index]
        if self.convention == "rt1":
            return (index / (self._count - 1) * 2 - 1).astype(np.float32)
        count = self._count
        if self.convention == "openvla":
            index, count = np.minimum(index, count - 2), count - 1
        return ((index + 0.5) / count * 2 - 1).astype(np.float32)

    def centres(self) -> list[Float[np.ndarray, " n"]]:
        """Returns what each bin of each dimension decodes to."""
        table = self.decode(np.tile(np.arange(max(self.counts))[:, None], len(self.counts)))
        return [table[:n, d] for d, n in enumerate(self.counts)]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_json` inverts it, exactly."""
        centres = None if self._centres is None else [c.tolist() for c in self._centres]
        return {"counts": list(self.counts), "convention": self.convention, "centres": centres}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Bins":
        """Builds bins from what `to_json` returned, after a trip through a JSON file."""
        return cls(**values)


def make(
    config: BinsConfig, values: Float[np.ndarray, "steps a"], fixed: Sequence[bool], name: str
) -> Bins:
    """Makes the bins of one action space.

    Args:
      config: how ranges are cut.
      values: its actions in [-1, 1], as they are encoded; only `quantile` looks at more than their
        width.
      fixed: dimensions that are never encoded as a range; they keep equal widths.
      name: whose actions they are, for messages.

    Raises:
      UserError: `config.counts` is not about so many dimensions.
    """
    counts = config.counts_of(values.shape[1], name)
    if config.kind == "uniform":
        return Bins(counts, config.convention)
    equal = Bins(counts).centres()
    return Bins(
        counts,
        centres=[
            equal[d]
            if fixed[d]
            else centres.quantile(values[:, d], n)
            if config.kind == "quantile"
            else centres.mu_law(n)
            for d, n in enumerate(counts)
        ],
    )
