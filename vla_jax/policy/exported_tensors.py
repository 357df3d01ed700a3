"""The parameters of an exported policy, as they come from its files of weights.

The part of a stand-alone policy that reads weights, whatever computes with them; it is copied into
every export. Needs safetensors.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exported_checks import expect
from safetensors import SafetensorError


def read(
    folder: pathlib.Path,
    wanted: Mapping[str, Sequence[int]] | None,
    load: Callable[[pathlib.Path], Mapping[str, Any]],
    is_finite: Callable[[Any], bool],
) -> dict[str, Any]:
    """Reads the parameters by name, from one file or several.

    Args:
      folder: what an export wrote.
      wanted: the shapes, as policy.json has them.
      load: reads the tensors of a file.
      is_finite: tells whether a tensor has finite numbers alone.

    Raises:
      ValueError: a file is damaged, or there are other tensors than policy.json says, or numbers
        that are not finite.
    """
    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            found = load(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: cannot be read ({error})") from error
        for name, value in found.items():
            expect(name not in tensors, f"{file}: tensor {name}", "it in one file", "it in two")
            expect(is_finite(value), f"{file}: tensor {name}", "finite numbers", "others")
        tensors |= found
    _check_shapes({name: value.shape for name, value in tensors.items()}, wanted, str(folder))
    return tensors


def _check_shapes(
    found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]] | None, where: str
) -> None:
    """Checks that tensors have the names and shapes that policy.json says."""
    if wanted is None:
        raise ValueError(
            f"{where}/policy.json, field parameters: expected every tensor, found null"
        )
    for what, some, others in (("tensor", wanted, found), ("no tensor", found, wanted)):
        absent = [name for name in some if name not in others]
        expect(not absent, where, f"{what} {absent[:1]}", f"{len(absent)} such differences")
    for name, shape in wanted.items():
        expect([*found[name]] == [*shape], f"{where}: tensor {name}", [*shape], [*found[name]])
