"""vla_jax: its own training step and decoder, jitted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from modelling.setting import Acted, Inputs, Shape, Trained, clock, parameters, resident
from vla_jax.core import trees
from vla_jax.core.batch import Batch
from vla_jax.models import vlm
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.decode import make_decoder
from vla_jax.tokens import automaton
from vla_jax.train import optimizer as optimizer_lib
from vla_jax.train import step
from vla_jax.train.loss import LossConfig
from vla_jax.train.state import TrainState


def train(shape: Shape, times: int, **model: str) -> Trained:
    """Measures training steps of AdamW; masters are float32 whatever is computed in.

    Args:
      shape: what is trained.
      times: measured steps.
      **model: fields of the model: `dtype`, `remat`, `backend`.
    """
    config = dataclasses.replace(shape.config, **{"param_dtype": "float32", **model})
    abstract = _abstract(shape, config)
    graph, axes = nnx.split(abstract)[0], vlm.logical_axes(abstract)

    def start() -> TrainState:
        params = parameters(dataclasses.replace(shape, config=config))
        return TrainState.create(params, rule)

    shapes = nnx.to_pure_dict(nnx.state(abstract))
    rule = optimizer_lib.make_optimizer(optimizer_lib.OptimizerConfig(), 1000, shapes, axes)
    measure = step.make_loss(graph, prefix=shape.prefix, sources=1, config=LossConfig())
    update = jax.jit(step.make_train_step(measure, rule), donate_argnums=0)
    state, batch = jax.jit(start)(), jax.device_put(_batch(shape))
    losses = []

    def advance() -> None:
        nonlocal state
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
        jax.block_until_ready(state)

    advance()
    advance()
    cpu, wall = clock(advance, times)
    return Trained(
        cpu=cpu,
        wall=wall,
        parameters=trees.size(state.params),
        loss=losses[0],
        memory=(jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", resident()),
    )


def act(shape: Shape, times: int, **model: str) -> Acted:
    """Measures actions: decodes freely from one image."""
    config = dataclasses.replace(shape.config, **model)
    graph = nnx.split(_abstract(shape, config))[0]
    params = parameters(shape)
    inputs = Inputs.make(shape, 1)
    everything = automaton.positions(np.ones((shape.suffix, shape.vocabulary), bool))
    decode = make_decoder(graph, everything)

    def call() -> list[int]:
        prefix = inputs.tokens[:, : shape.prefix]
        tokens = decode(params, prefix, np.array([shape.prefix]), images=inputs.images[:, None])
        return np.asarray(tokens)[0].tolist()

    tokens = call()
    cpu, wall = clock(call, times)
    return Acted(cpu=cpu, wall=wall, tokens=tokens)


def _abstract(shape: Shape, config: VLMConfig) -> nnx.Module:
    return nnx.eval_shape(lambda: vlm.VLM(config, shape.vocabulary, nnx.Rngs(0)))


def _batch(shape: Shape) -> Batch:
    inputs = Inputs.make(shape, shape.batch)
    slots = np.arange(shape.prefix + shape.suffix)
    return Batch(
        images=inputs.images[:, None],
        image_mask=np.ones((shape.batch, 1), bool),
        tokens=inputs.tokens,
        prefix_length=np.full(shape.batch, shape.prefix, np.int32),
        loss_mask=np.broadcast_to(slots >= shape.prefix, inputs.tokens.shape),
        source=jnp.zeros(shape.batch, jnp.int32),
    )
