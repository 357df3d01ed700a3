"""What both sides compute: one PaliGemma of 49 M parameters, its weights, inputs, and the clock."""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from vla_jax.core import trees
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.pretrained import huggingface, table
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export.tensors import packed

VOCABULARY = 16_384
IMAGE = VOCABULARY - 1  # the id that Hugging Face's model replaces by image tokens
CONFIG = VLMConfig(
    vision=ViTConfig(image_size=112, patch_size=14, width=384, depth=6, heads=6, mlp=1536),
    decoder=DecoderConfig(width=512, depth=8, mlp=2048, heads=8, key_heads=1, head_dim=64),
    dtype="float32",
    remat="none",
)
BATCH, PREFIX, SUFFIX = 4, 24, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """A batch: uint8 images [b, y, x, 3], int32 tokens [b, prefix + suffix], no padding."""

    images: np.ndarray
    tokens: np.ndarray

    @classmethod
    def make(cls, batch: int) -> "Inputs":
        """Returns the same batch for everyone."""
        rng = np.random.default_rng(0)
        size = CONFIG.vision.image_size
        return cls(
            images=rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8),
            tokens=rng.integers(3, IMAGE, (batch, PREFIX + SUFFIX)).astype(np.int32),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One process.

    Attributes:
      train_cpu: CPU milliseconds of a training step, median.
      train_wall: the same on the clock.
      act_cpu: CPU milliseconds of prefill and 8 tokens for one image, median.
      act_wall: the same on the clock.
      parameters: how many.
      loss: before the first step, nats.
      tokens: what was decoded.
    """

    train_cpu: float
    train_wall: float
    act_cpu: float
    act_wall: float
    parameters: int
    loss: float
    tokens: list[int]


def parameters() -> Any:
    """Returns the weights as nested dicts, a function of the seed.

    Embeddings are small, so that layers outweigh them: else a model that was not trained repeats
    its last token, whatever it sees.
    """
    params = nnx.to_pure_dict(nnx.state(VLM(CONFIG, VOCABULARY, nnx.Rngs(0))))
    params["decoder"]["embedding"] *= 0.02
    return params


def write_weights(path: pathlib.Path) -> None:
    """Writes the weights with Hugging Face's names, as its files have them."""
    leaves = trees.named_leaves(parameters())
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    entries = table.entries(huggingface.paligemma(CONFIG), shapes)
    tensors = {
        tensor.name: np.ascontiguousarray(tensor.read()) for tensor in packed(entries, leaves, {})
    }
    save_file(tensors, path, metadata={"format": "pt"})


def clock(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Returns the median CPU and wall-clock milliseconds of a call, which was warmed up."""
    cpu, wall = [], []
    for _ in range(times):
        began, started = time.process_time(), time.perf_counter()
        call()
        cpu.append(1000 * (time.process_time() - began))
        wall.append(1000 * (time.perf_counter() - started))
    return statistics.median(cpu), statistics.median(wall)
