"""Filling a parameter from the tensors that hold it, straight into its place on the devices."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from vla_jax.core.arrays import Float
from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import storage
from vla_jax.models.pretrained.table import Entry
from vla_jax.models.pretrained.tensors import Tensor

_Key = tuple[tuple[int, int], ...]  # start and stop on every axis


def fill(
    leaf: jax.ShapeDtypeStruct,
    found: Sequence[tuple[Entry, int]],
    tensors: Mapping[str, Tensor],
) -> jax.Array:
    """Reads one parameter.

    Host memory holds the part of it that lies on this process's devices and, of one tensor at a
    time, what is copied from it (all of a tensor that is remote or compressed).

    Args:
      leaf: its shape, dtype and sharding (the default device if None).
      found: the tensors that hold it, each with the number of its place in the tensor's entry.
      tensors: by name.

    Raises:
      UserError: a tensor is damaged, or holds numbers that are not finite in the leaf's dtype;
        checked of what lies on this process's devices.
    """
    place = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    indices = place.addressable_devices_indices_map(leaf.shape).values()
    buffers = {
        key: np.empty([stop - start for start, stop in key], leaf.dtype)
        for key in {_key(index or (), leaf.shape) for index in indices}
    }
    # Each tensor is opened once, for all devices, and let go before the next.
    for entry, number in found:
        _spread(entry, number, tensors, leaf.shape, buffers)
    array = jax.make_array_from_callback(
        leaf.shape, place, lambda index: buffers[_key(index or (), leaf.shape)]
    )
    # Copied now, so that the buffers of one parameter are gone before those of the next are made.
    return array.block_until_ready()


def fits(entry: Entry, tensor: Tensor) -> bool:
    """Tells whether a tensor is of floats and of the right shape.

    A square table of positions fits whatever its resolution.
    """
    if tensor.dtype is None:
        return False
    if _is_position(entry) and len(tensor.shape) == len(entry.shape):
        count = tensor.shape[-2] - entry.skip
        same = (*entry.shape[:-2], tensor.shape[-2], entry.shape[-1]) == tensor.shape
        return same and count > 0 and math.isqrt(count) ** 2 == count
    return tensor.shape == entry.shape


def resample(position: Float[np.ndarray, "p d"], patches: int) -> Float[np.ndarray, "q d"]:
    """Resamples a square table of positions to another number of patches.

    Linear, corners on corners: what the checkpoints of higher resolution were made with.
    Source: big_vision:models/vit.py (`resample_posemb`).

    Args:
      position: row by row.
      patches: how many are wanted, a square.
    """
    import scipy.ndimage  # noqa: PLC0415  (a quarter of a second at every start otherwise)

    old, new = math.isqrt(len(position)), math.isqrt(patches)
    grid = np.asarray(position, np.float32).reshape(old, old, -1)
    zoomed = np.asarray(scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1))
    return zoomed.reshape(patches, -1)


def _spread(
    entry: Entry,
    number: int,
    tensors: Mapping[str, Tensor],
    shape: tuple[int, ...],
    buffers: Mapping[_Key, np.ndarray],
) -> None:
    """Copies what one tensor says of a parameter of `shape` into the buffers of all devices."""
    value = entry.unpack(tensors[entry.name].read())[number]
    if entry.plus is not None:
        more = tensors[entry.plus].read()
        value = value + np.reshape(more, (-1, shape[-1]))[: len(value)]
    if _is_position(entry) and len(value) != shape[0]:
        value = resample(value, shape[0])
    for key, buffer in buffers.items():
        copied = _copy(value, entry.places[number].index, key, buffer)
        if copied is not None and not is_finite(copied):
            raise UserError(
                f"{tensors[entry.name].file}: tensor {entry.name}",
                expected=f"finite numbers of {copied.dtype}",
                found="NaN or infinity",
                fix=storage.AGAIN,
            )


def _is_position(entry: Entry) -> bool:
    return entry.places[0].leaf.endswith("vision/position")


def _key(index: tuple[slice, ...], shape: tuple[int, ...]) -> _Key:
    return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def _copy(
    value: np.ndarray, where: int | slice | None, key: _Key, buffer: np.ndarray
) -> np.ndarray | None:
    """Copies the part of `value`, which lies at `where` of the parameter, that a buffer holds.

    Returns:
      What was filled, a view of the buffer; None if the buffer holds nothing of it.
    """
    rest = tuple(slice(*span) for span in key)
    if where is None:
        filled, part = buffer[...], value[rest]
    elif isinstance(where, int):
        begin, end = key[0]
        if not begin <= where < end:
            return None
        filled, part = buffer[where - begin, ...], value[rest[1:]]
    else:
        begin, end = key[0]
        first = where.start or 0
        low, high = max(begin, first), min(end, first + len(value))
        if low >= high:
            return None
        filled = buffer[low - begin : high - begin]
        part = value[(slice(low - first, high - first), *rest[1:])]
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused
        filled[...] = part
    return filled


def is_finite(values: np.ndarray) -> bool:
    """Tells whether floats are all finite; makes no copy as large as a float32 array."""
    if not values.size:
        return True
    if values.dtype.itemsize > 2:
        return bool(np.isfinite(values.min()) and np.isfinite(values.max()))
    # Half precisions have no fast arithmetic: all ones in the exponent is no finite number.
    mask = 0x7C00 if values.dtype == np.float16 else 0x7F80
    return bool((values.view(np.uint16) & 0x7FFF).max() < mask)
