"""vla_jax: its own training step and decoder, jitted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from modelling.setting import (
    BATCH,
    CONFIG,
    PREFIX,
    SUFFIX,
    VOCABULARY,
    Inputs,
    Measured,
    clock,
    parameters,
)
from vla_jax.core import trees
from vla_jax.core.batch import Batch
from vla_jax.models import vlm
from vla_jax.models.vlm_config import Dtype
from vla_jax.policy.decode import make_decoder
from vla_jax.train import optimizer as optimizer_lib
from vla_jax.train import step
from vla_jax.train.loss import LossConfig
from vla_jax.train.state import TrainState


def run(dtype: Dtype, times: int) -> Measured:
    """Measures both; master weights are float32 whatever the dtype of the computation."""
    config = dataclasses.replace(CONFIG, dtype=dtype)
    model = nnx.eval_shape(lambda: vlm.VLM(config, VOCABULARY, nnx.Rngs(0)))
    graph, params = nnx.split(model)[0], parameters()
    size = trees.size(params)
    act_cpu, act_wall, tokens = _act(graph, params, times)
    rule = optimizer_lib.make_optimizer(
        optimizer_lib.OptimizerConfig(), 1000, params, vlm.logical_axes(model)
    )
    measure = step.make_loss(graph, prefix=PREFIX, sources=1, config=LossConfig())
    train = jax.jit(step.make_train_step(measure, rule), donate_argnums=0)
    state, batch = TrainState.create(params, rule), jax.device_put(_batch())
    losses = []

    def advance() -> None:
        nonlocal state
        state, metrics = train(state, batch)
        losses.append(float(metrics["loss"]))
        jax.block_until_ready(state)

    advance()
    advance()
    train_cpu, train_wall = clock(advance, times)
    return Measured(
        train_cpu=train_cpu,
        train_wall=train_wall,
        act_cpu=act_cpu,
        act_wall=act_wall,
        parameters=size,
        loss=losses[0],
        tokens=tokens,
    )


def _act(graph: nnx.GraphDef, params: object, times: int) -> tuple[float, float, list[int]]:
    """Decodes freely from one image."""
    inputs = Inputs.make(1)
    decode = make_decoder(graph, np.ones((SUFFIX, VOCABULARY), bool))

    def act() -> list[int]:
        tokens = decode(
            params, inputs.tokens[:, :PREFIX], np.array([PREFIX]), images=inputs.images[:, None]
        )
        return np.asarray(tokens)[0].tolist()

    tokens = act()
    return *clock(act, times), tokens


def _batch() -> Batch:
    inputs = Inputs.make(BATCH)
    supervised = np.broadcast_to(np.arange(PREFIX + SUFFIX) >= PREFIX, inputs.tokens.shape)
    return Batch(
        images=inputs.images[:, None],
        image_mask=np.ones((BATCH, 1), bool),
        tokens=inputs.tokens,
        prefix_length=np.full(BATCH, PREFIX, np.int32),
        loss_mask=supervised,
        source=jnp.zeros(BATCH, jnp.int32),
    )
