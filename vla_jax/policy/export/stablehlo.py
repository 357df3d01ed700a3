"""Format `jax`: StableHLO for CPU, CUDA and TPU with the weights beside it, run by JAX alone.

`decode.DTYPE.stablehlo` is one function (params, rules, inputs) -> (tokens int32 [b, n], logits
float32 [b, n, v]) for any batch size b: prefill and at most n greedy steps over a cache. `rules`
are the grammar's tables by name, of any number of states and classes; `inputs` are the arguments of
`VLM.prefill` by name.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.decode import Rules, greedy
from vla_jax.policy.export import native, weights
from vla_jax.policy.export.format import ALWAYS, Format, Options, Wanted
from vla_jax.policy.policy import Policy

PLATFORMS = ("cpu", "cuda", "tpu")


def _check(wanted: Wanted) -> None:
    """Everything can be expressed."""


def _write(folder: pathlib.Path, policy: Policy, config: VLMConfig, options: Options) -> None:
    weights.save(folder, native.tensors(policy.params), options.dtype, options.shard_bytes)
    policy.encoder.tokenizer.save(folder / "tokenizer.json")
    for dtype in dict.fromkeys(("float32", options.dtype)):
        exported = program(policy, config, options.dtype, dtype)
        (folder / f"decode.{dtype}.stablehlo").write_bytes(exported.serialize())


def program(policy: Policy, config: VLMConfig, stored: str, dtype: str) -> jax.export.Exported:
    """Lowers the decoder for every platform: weights in `stored`, computing in `dtype`."""
    vocabulary = policy.encoder.vocabulary
    computing: Any = dtype
    sized = dataclasses.replace(config, dtype=computing)
    graph, _ = nnx.split(nnx.eval_shape(lambda: VLM(sized, vocabulary, nnx.Rngs(0))))

    length = policy.legal.length

    def decode(params: Any, rules: Any, inputs: dict[str, Array]) -> tuple[Array, Array]:
        walked = Rules(**rules, length=length)
        return greedy(nnx.merge(graph, params), walked, lambda logits: logits, **inputs)

    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(stored)), policy.params
    )
    batch, states, classes = jax.export.symbolic_shape("b, s, c")
    shapes = {"classes": (vocabulary,), "step": (states, classes), "need": (states,), "start": ()}
    rules = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    return jax.export.export(jax.jit(decode), platforms=PLATFORMS)(
        abstract, rules, _inputs(policy, batch)
    )


def _inputs(policy: Policy, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of the inputs."""
    observer = policy.observer
    slots, side = observer.history * len(observer.views), observer.image_size
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "tokens": ((policy.encoder.layout.prefix,), jnp.int32),
        "prefix_length": ((), jnp.int32),
        "images": ((slots, side, side, 3), jnp.uint8),
        "image_mask": ((slots,), jnp.bool_),
    }
    if observer.state:
        shapes["state"] = ((observer.state,), jnp.float32)
        shapes["state_mask"] = ((observer.state,), jnp.bool_)
    return {
        name: jax.ShapeDtypeStruct((batch, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }


FORMAT = Format(
    name="jax",
    programs=("jax_policy.py", *ALWAYS),
    packages={"jax": ">=0.5", "flatbuffers": ">=23", "safetensors": ">=0.4"},
    check=_check,
    write=_write,
)
