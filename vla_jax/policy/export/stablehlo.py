"""Format `jax`: StableHLO for CPU, CUDA and TPU with the weights beside it, run by JAX alone.

`decode.DTYPE.stablehlo` is one function (params, legal bool [n, v], inputs) -> (tokens int32
[b, n], logits float32 [b, n, v]) for any batch size b: prefill and n masked greedy steps over a
cache. `inputs` are the arguments of `VLM.prefill` by name.
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
from vla_jax.policy.export.format import Format, Options, Wanted
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

    def decode(params: Any, legal: Array, inputs: dict[str, Array]) -> tuple[Array, Array]:
        rules = Rules.of_positions(legal)
        return greedy(nnx.merge(graph, params), rules, lambda logits: logits, **inputs)

    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(stored)), policy.params
    )
    length = policy.encoder.chunk * policy.action_tokens.spec.size
    legal = jax.ShapeDtypeStruct((length, vocabulary), jnp.bool_)
    return jax.export.export(jax.jit(decode), platforms=PLATFORMS)(abstract, legal, _inputs(policy))


def _inputs(policy: Policy) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of the inputs, for any batch size."""
    observer = policy.observer
    (batch,) = jax.export.symbolic_shape("b")
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
    programs=("jax_policy.py", "exported_policy.py", "selftest.py"),
    packages={"jax": ">=0.5", "flatbuffers": ">=23", "safetensors": ">=0.4"},
    check=_check,
    write=_write,
)
