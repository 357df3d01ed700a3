"""The `vision_backbone` file of OpenVLA-OFT with FiLM: towers with adapters that are not merged.

Sources: openvla-oft:prismatic/models/film_vit_wrapper.py, experiments/robot/openvla_utils.py;
huggingface/peft:src/peft/tuners/lora.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.models.pretrained.tensors import Tensor

_ALPHA = 16  # at most: adapters of rank r count min(r, 16) / r
FILM = re.compile(r"\.blocks\.\d+\.(scale|shift)\.(weight|bias)$")
_MATRIX = re.compile(r"\.(qkv|q|kv|proj|fc1|fc2)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapted(Tensor):
    """A matrix with an adapter that is not merged.

    Attributes:
      base: the matrix.
      a: [r, inputs], of a convolution [r, c, i, j].
      b: [outputs, r], of a convolution [outputs, r, 1, 1].
    """

    base: Tensor
    a: Tensor
    b: Tensor

    def read(self) -> np.ndarray:
        """Returns the merged matrix, float32."""
        base, a, b = (part.read().astype(np.float32) for part in (self.base, self.a, self.b))
        rank = len(a)
        delta = b.reshape(-1, rank) @ a.reshape(rank, -1)
        return base + min(rank, _ALPHA) / rank * delta.reshape(base.shape)


def merged(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a `vision_backbone` file by the names that a merged model has.

    Raises:
      UserError: an adapter does not fit its matrix.
    """
    out = {}
    for name, tensor in vision.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".").replace(".block.", ".")
        module = name.removesuffix(".base_layer.weight")
        out[plain] = tensor if module == name else _adapted(module, tensor, vision)
    return out


def _adapted(module: str, base: Tensor, vision: Mapping[str, Tensor]) -> Tensor:
    a, b = (vision.get(f"{module}.{part}.default.weight") for part in ("lora_A", "lora_B"))
    rank = a.shape[0] if a is not None and a.shape else 0
    ones = (1,) * (len(base.shape) - 2)
    shapes = (rank, *base.shape[1:]), (base.shape[0], rank, *ones)
    if a is None or b is None or not rank or (a.shape, b.shape) != shapes:
        raise UserError(
            f"{base.file}: tensor {module}",
            expected=f"adapters lora_A and lora_B of a matrix of {base.shape}",
            found=" and ".join("none" if x is None else str(x.shape) for x in (a, b)),
        )
    float32 = np.dtype(np.float32)
    return Adapted(
        file=base.file,
        shape=base.shape,
        dtype=float32,
        kind="F32",
        offset=None,
        base=base,
        a=a,
        b=b,
    )


def unmerged(name: str, value: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """Returns what the file has of one tensor of a merged model: a matrix has a zero adapter."""
    if FILM.search(name):
        return {name: value}
    name = re.sub(r"(blocks\.\d+)\.", r"\1.block.", name)
    module, _, kind = name.rpartition(".")
    if not _MATRIX.search(module):
        return {name: value}
    out = {f"{module}.base_layer.{kind}": value}
    if kind == "weight":
        ones = (1,) * (value.ndim - 2)
        shapes = {"lora_A": (rank, *value.shape[1:]), "lora_B": (value.shape[0], rank, *ones)}
        for part, shape in shapes.items():
            out[f"{module}.{part}.default.weight"] = np.zeros(shape, np.float32)
    return out
