"""What both sides compute: a PaliGemma, its weights and inputs, the clock and the memory."""

import dataclasses
import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from vla_jax.core import trees
from vla_jax.models import variants
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.pretrained import huggingface, table
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export.tensors import packed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One PaliGemma and what it is asked.

    Attributes:
      config: sizes; computation and remat are set by who measures.
      vocabulary: token ids; the last one is replaced by image tokens in Hugging Face's model.
      batch: examples of a training step.
      prefix: tokens of text before the answer.
      suffix: tokens of the answer.
    """

    config: VLMConfig
    vocabulary: int
    batch: int
    prefix: int
    suffix: int

    @property
    def image(self) -> int:
        """The id in whose place the image tokens are put."""
        return self.vocabulary - 1


def _model(vision: ViTConfig, decoder: DecoderConfig) -> VLMConfig:
    return VLMConfig(vision=vision, decoder=decoder, dtype="float32", remat="none")


_TABLETOP = variants.TABLETOP_TINY
SHAPES = {
    "small": Shape(
        config=_model(
            ViTConfig(image_size=112, patch_size=14, width=384, depth=6, heads=6, mlp=1536),
            DecoderConfig(width=512, depth=8, mlp=2048, heads=8, key_heads=1, head_dim=64),
        ),
        vocabulary=16_384,
        batch=4,
        prefix=24,
        suffix=8,
    ),
    # The default run's sizes; its stem of two stages and fixed positions are no PaliGemma's.
    "tabletop": Shape(
        config=_model(
            dataclasses.replace(
                _TABLETOP.vision,
                positions="learned",
                stem_strides=(),
                stem_widths=(),
                activation="gelu",
            ),
            dataclasses.replace(_TABLETOP.decoder, activation="gelu"),
        ),
        vocabulary=1024,
        batch=32,
        prefix=10,
        suffix=9,
    ),
    "paligemma_3b": Shape(
        config=variants.variants()["paligemma_3b_224"],
        vocabulary=257_216,
        batch=8,
        prefix=48,
        suffix=16,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """A batch: uint8 images [b, y, x, 3], int32 tokens [b, prefix + suffix], no padding."""

    images: np.ndarray
    tokens: np.ndarray

    @classmethod
    def make(cls, shape: Shape, batch: int) -> "Inputs":
        """Returns the same batch for everyone."""
        rng = np.random.default_rng(0)
        size = shape.config.vision.image_size
        return cls(
            images=rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8),
            tokens=rng.integers(3, shape.image, (batch, shape.prefix + shape.suffix)).astype(
                np.int32
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """Training steps in one process.

    Attributes:
      cpu: CPU milliseconds of a step, median.
      wall: the same on the clock.
      parameters: how many.
      loss: before the first step, nats.
      memory: most bytes held: of the device where it counts them, else resident in this process.
    """

    cpu: float
    wall: float
    parameters: int
    loss: float
    memory: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acted:
    """Actions in one process.

    Attributes:
      cpu: CPU milliseconds of prefill and suffix for one image, median.
      wall: the same on the clock.
      tokens: what was decoded.
    """

    cpu: float
    wall: float
    tokens: list[int]


def parameters(shape: Shape) -> Any:
    """Returns the weights as nested dicts, a function of the seed.

    Embeddings are small, so that layers outweigh them: else a model that was not trained repeats
    its last token, whatever it sees.
    """
    params = nnx.to_pure_dict(nnx.state(VLM(shape.config, shape.vocabulary, nnx.Rngs(0))))
    params["decoder"]["embedding"] *= 0.02
    return params


def write_weights(shape: Shape, path: pathlib.Path) -> None:
    """Writes the weights with Hugging Face's names, as its files have them."""
    leaves = trees.named_leaves(parameters(shape))
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    entries = table.entries(huggingface.paligemma(shape.config), shapes)
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


def resident() -> int:
    """Returns the most bytes of host memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
