"""What a reader of a checkpoint asks for, held against what is stored."""

from collections.abc import Mapping
from typing import Any

import jax

from vla_jax.core import errors


def with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of a leaf to be read; without one, the first device's.

    Orbax would go back to the devices that the writer had, which need not exist here.
    """
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def check_fit(
    where: str, prefix: str, wanted: Mapping[str, Any], stored: Mapping[str, Any]
) -> None:
    """Checks that a stored tree has the wanted leaves and no others, in the wanted shapes.

    Args:
      where: the checkpoint, for messages.
      prefix: of leaf names in messages.
      wanted: leaves by name.
      stored: likewise.

    Raises:
      UserError: it does not; names the first leaf.
    """
    shapes = {name: f"shape {tuple(leaf.shape)}" for name, leaf in wanted.items()}
    found = {name: f"shape {tuple(leaf.shape)}" for name, leaf in stored.items()}
    for name in (*shapes, *found):
        if shapes.get(name) != found.get(name):
            raise errors.UserError(
                f"{where}: leaf {prefix}{name}",
                expected=shapes.get(name, "no such leaf"),
                found=found.get(name, "no such leaf"),
                fix="Use the config that this checkpoint was written with",
            )
