"""The whole update on small models: it learns, and the mesh does not matter."""

import dataclasses
import functools
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vla_jax.core import trees
from vla_jax.core.batch import Batch
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.train import step
from vla_jax.train.loop import LoopConfig
from vla_jax.train.loss import LossConfig
from vla_jax.train.optimizer import OptimizerConfig
from vla_jax.train.schedule import ScheduleConfig
from vla_jax.train.state import TrainState

STEPS, VOCABULARY, PREFIX = 20, 48, 6
CONFIG = RunConfig(
    model=VLMConfig(
        vision=ViTConfig(image_size=8, patch_size=4, width=16, depth=1, heads=2, mlp=32),
        decoder=DecoderConfig(width=16, depth=2, mlp=32, heads=4, key_heads=2, head_dim=8),
        dtype="float32",
        remat="dots",
    ),
    sequence=SequenceConfig(prefix=PREFIX, suffix=9),
    optimizer=OptimizerConfig(
        learning_rate=1e-2, schedule=ScheduleConfig(warmup_steps=2), weight_decay=0.01
    ),
    loop=LoopConfig(steps=STEPS),
)
ENCODER = types.SimpleNamespace(action_token_ids=tuple(range(8, 24)))


def make_batch(seed):
    rng = np.random.default_rng(seed)
    length = rng.integers(2, PREFIX + 1, 8)
    tokens = rng.integers(4, VOCABULARY, (8, PREFIX + 9))
    tokens[:, :PREFIX] *= np.arange(PREFIX)[None] >= PREFIX - length[:, None]
    mask = np.zeros(tokens.shape, bool)
    mask[:, PREFIX:] = np.arange(9)[None] < rng.integers(2, 10, 8)[:, None]
    return Batch(
        images=rng.integers(0, 256, (8, 1, 8, 8, 3)).astype(np.uint8),
        image_mask=np.ones((8, 1), bool),
        tokens=tokens.astype(np.int32),
        prefix_length=length.astype(np.int32),
        loss_mask=mask,
        source=(np.arange(8) % 2).astype(np.int32),
    )


@functools.cache
def first_state(rule):
    """The first training state, made once on one device: its program takes long to compile."""
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    return jax.device_get(make_model(mesh, rule).create(ENCODER))


def make_model(mesh, rule):
    optimizer = dataclasses.replace(CONFIG.optimizer, rule=rule)
    return Model(dataclasses.replace(CONFIG, optimizer=optimizer), VOCABULARY, mesh)


def train(mesh, batches, rule="adamw"):
    """Returns losses, gradient norms and summed sums of one step per batch."""
    model = make_model(mesh, rule)
    places = jax.tree.map(lambda leaf: leaf.sharding, model.abstract_state())
    state = jax.device_put(first_state(rule), places)
    update = model.train_step(model.measure(2))
    losses, norms, sums = [], [], []
    for batch in batches:
        state, metrics = update(state, sharding.place(batch, mesh))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["gradient_norm"]))
        sums.append(jax.device_get(metrics["sums"]))
    totals = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *sums)
    return types.SimpleNamespace(losses=losses, norms=norms, sums=totals, state=state, model=model)


def make_mesh(data, fsdp, tensor, slices=1, devices=None):
    config = mesh_lib.MeshConfig(slice=slices, data=data, fsdp=fsdp, tensor=tensor)
    return mesh_lib.make_mesh(config, devices)


@pytest.fixture(scope="module")
def alone():
    """Twenty different batches on one device."""
    return train(make_mesh(1, 1, 1, devices=jax.devices()[:1]), map(make_batch, range(STEPS)))


def test_twenty_steps_lower_the_loss_of_a_fixed_batch():
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    losses = train(mesh, [make_batch(0)] * STEPS).losses
    # At the start the model knows nothing but the vocabulary's size.
    assert losses[0] == pytest.approx(np.log(VOCABULARY), rel=0.25)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    "sizes",
    [
        (8, 1, 1),
        pytest.param((1, 8, 1), marks=pytest.mark.slow),
        pytest.param((2, 2, 2), marks=pytest.mark.slow),
        (1, 2, 2, 2),
    ],
)
def test_the_losses_of_twenty_steps_are_those_of_one_device(alone, sizes):
    spread = train(make_mesh(*sizes), map(make_batch, range(STEPS)))
    np.testing.assert_allclose(spread.losses, alone.losses, rtol=0, atol=1e-5)
    np.testing.assert_allclose(spread.norms, alone.norms, rtol=1e-3)
    for name, values in alone.sums.items():
        np.testing.assert_allclose(spread.sums[name], values, rtol=1e-4)
    query = spread.state.params["decoder"]["blocks"]["query"]
    assert len(query.sharding.device_set) == 8
    shard = query.addressable_shards[0].data.shape
    assert shard == (2, 16 // sizes[1], 4 // sizes[2], 8)


@pytest.mark.slow
def test_the_losses_of_muon_are_those_of_one_device():
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    alone = train(mesh, map(make_batch, range(STEPS)), "muon")
    spread = train(make_mesh(2, 2, 2), map(make_batch, range(STEPS)), "muon")
    np.testing.assert_allclose(spread.losses, alone.losses, rtol=0, atol=1e-5)
    placed = {
        name: leaf.sharding.spec
        for name, leaf in trees.named_leaves(spread.state.optimizer).items()
        if name.endswith("decoder/blocks/query")
    }
    assert len(placed) == 1  # a momentum, no second moment
    assert set(placed.values()) == {spread.state.params["decoder"]["blocks"]["query"].sharding.spec}


@pytest.mark.parametrize("sizes", [pytest.param((1, 1, 1), marks=pytest.mark.slow), (2, 1, 2)])
def test_a_batch_in_parts_is_the_same_update(sizes):
    """Of the whole batch, whose examples have unequal numbers of tokens."""
    count = int(np.prod(sizes))
    mesh = make_mesh(*sizes, devices=jax.devices()[:count])
    config = dataclasses.replace(CONFIG, loss=LossConfig(normalize="token"))
    found = {}
    for parts in (1, 4):
        optimizer = dataclasses.replace(CONFIG.optimizer, accumulate=parts)
        model = Model(dataclasses.replace(config, optimizer=optimizer), VOCABULARY, mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, model.abstract_state())
        state = jax.device_put(first_state("adamw"), places)
        update = model.train_step(model.measure(2))
        found[parts] = update(state, sharding.place(make_batch(0), mesh))[1]
    whole, parts = jax.device_get((found[1], found[4]))
    assert float(parts["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert float(parts["gradient_norm"]) == pytest.approx(float(whole["gradient_norm"]), rel=1e-4)
    np.testing.assert_allclose(parts["example_loss"], whole["example_loss"], rtol=1e-5)
    for name, value in whole["sums"].items():
        np.testing.assert_allclose(parts["sums"][name], value, rtol=1e-5)


def toy(**options):
    """A step that pulls one number towards the batch."""

    def measure(params, batch, weight=None):
        loss = jnp.mean((params["x"] - batch) ** 2)
        return loss, {"sums": {}, "example_loss": (params["x"] - batch) ** 2}

    optimizer = optax.sgd(0.25)
    averaged = "ema_decay" in options
    state = TrainState.create({"x": jnp.zeros(())}, optimizer, averaged=averaged)
    return state, step.make_train_step(measure, optimizer, **options)


def test_the_average_follows_the_parameters():
    state, update = toy(ema_decay=0.9)
    expected = 0.0
    for _ in range(4):
        state, _ = update(state, jnp.ones(2))
        expected = 0.9 * expected + 0.1 * float(state.params["x"])
    assert float(state.ema["x"]) == pytest.approx(expected)
    assert float(state.best["x"]) == pytest.approx(expected)
    assert float(state.params["x"]) == pytest.approx(1 - 0.5**4)


@pytest.mark.parametrize("skip", [True, False])
def test_a_batch_that_is_no_number_changes_nothing_if_it_is_skipped(skip):
    state, update = toy(skip_nonfinite=skip)
    state, metrics = update(state, jnp.ones(2))
    assert bool(metrics["finite"])
    state, metrics = update(state, jnp.array([1.0, jnp.nan]))
    assert not bool(metrics["finite"])
    assert np.isfinite(metrics["example_loss"]).tolist() == [True, False]
    assert int(state.step) == 2
    assert (float(state.params["x"]) == 0.5) == skip


def test_a_step_counts_and_reports(alone):
    assert int(alone.state.step) == STEPS
    assert alone.sums["examples"].tolist() == [4 * STEPS, 4 * STEPS]
    tokens = sum(make_batch(n).loss_mask.sum() for n in range(STEPS))
    assert alone.sums["tokens"].sum() == tokens
    # Per-source means of the example losses add up to the reported losses.
    assert alone.sums["loss"].sum() == pytest.approx(8 * sum(alone.losses), rel=1e-5)
    assert min(alone.norms) > 0


def test_the_loss_is_over_the_masked_suffix_only(alone):
    measure = jax.jit(alone.model.measure(2))
    batch = make_batch(0)
    expected, _ = measure(alone.state.params, batch)
    tokens = batch.tokens.copy()
    last = np.where(batch.loss_mask, np.arange(tokens.shape[1])[None], 0).max(1)
    unsupervised = np.arange(tokens.shape[1])[None] > last[:, None]
    assert unsupervised.any()
    tokens[unsupervised] = 5
    found, _ = measure(alone.state.params, dataclasses.replace(batch, tokens=tokens))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_colours_on_the_device_are_those_of_the_host():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 2, 5, 5, 3)).astype(np.uint8)
    colour = (np.eye(3, 4) + rng.normal(0, 0.2, (3, 3, 4)) * [1, 1, 1, 50]).astype(np.float32)
    found = np.asarray(step.recolour(images, colour))
    for image, matrix, row in zip(images, colour, found, strict=True):
        wanted = [cv2.transform(view, matrix) for view in image]
        np.testing.assert_allclose(row, np.stack(wanted), atol=1)
    assert (found != images).mean() > 0.5
