import dataclasses

import jax
import pytest

from vla_jax.experiment.model import Model
from vla_jax.experiment.planning.cost import cost
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.models import flops
from vla_jax.models.lora import LoraConfig
from vla_jax.runtime import mesh
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.runtime.topology import Topology
from vla_jax.train.strategy import StrategyConfig

VOCABULARY = 512
ITEM = 2  # bytes of bfloat16
NONE = dict.fromkeys(mesh.AXES, 0)


def planned(config, topology="v5e:2x4", **sizes):
    found = Topology.parse(topology)
    laid_out = mesh.abstract_mesh(MeshConfig(**sizes), found.devices)
    model = Model(config, VOCABULARY, laid_out)
    return cost(config, Shapes(model), VOCABULARY, found), model


def test_copies_sum_their_gradients(config):
    found, model = planned(config, data=8)
    assert found.collectives == NONE | {"data": 2 * 7 / 8 * model.size * ITEM}


def test_slices_are_gathered_twice_and_their_gradients_scattered(config):
    found, model = planned(config, data=1, fsdp=8)
    params = model.abstract_params()
    sliced = sum(leaf.size for leaf in jax.tree.leaves(params) if "fsdp" in leaf.sharding.spec)
    assert 0.9 * model.size < sliced < model.size
    # A table of the vocabulary stays in slices: of rows for the head, of columns for looking up.
    table = params["decoder"]["embedding"].size
    moved = sliced - table + table / 8
    expected = 7 / 8 * ITEM * (3 * moved + 2 * (model.size - sliced))
    assert found.collectives == NONE | {"fsdp": pytest.approx(expected)}
    frozen = dataclasses.replace(config, strategy=StrategyConfig(kind="frozen_vision"))
    less, _ = planned(frozen, data=1, fsdp=8)
    assert less.collectives["fsdp"] < found.collectives["fsdp"]


def test_slices_of_layers_sum_their_activations(config):
    found, _ = planned(config, data=4, tensor=2)
    image, text = 16, 48 + 16 - 1
    # Two sums forward, two backward, two recomputed; a sum over a ring of 2 sends all once.
    elements = 6 * 16 / 4 * (2 * image * 32 + 3 * (image + text) * 64)
    assert found.collectives["tensor"] == elements * ITEM


def test_arithmetic_is_that_of_the_batch_and_of_remat(config):
    found, _ = planned(config, data=8)
    forward = flops.forward(config.model, VOCABULARY, images=1, prefix=48, suffix=16)
    assert sum(found.flops.values()) == 16 * 3 * sum(forward.values())
    assert found.recomputed == 16 * flops.recomputed(config.model, forward)
    work = sum(found.flops.values()) + found.recomputed
    assert found.seconds["compute"] == pytest.approx(work / 8 / 197e12)


def test_frozen_parameters_save_arithmetic(config):
    def work(**strategy):
        changed = dataclasses.replace(config, strategy=StrategyConfig(**strategy))
        return sum(planned(changed, data=8)[0].flops.values())

    full = work(kind="full")
    # No gradients of matrices, a third of all but attention, and adapters are small.
    assert 0.66 * full < work(kind="lora", lora=LoraConfig(rank=1)) < 0.75 * full
    assert work(kind="last_layer") < work(kind="sandwich") < full
    assert work(kind="frozen_vision") < full


def test_no_step_is_faster_than_its_slowest_part(config):
    found, _ = planned(config, data=8)
    assert found.step_seconds == max(found.seconds.values())
    assert found.mfu == pytest.approx(sum(found.flops.values()) / 8 / found.step_seconds / 197e12)
    assert found.mfu < 0.76  # full remat runs a fourth pass


def test_beyond_a_node_the_network_is_the_limit(config):
    one, _ = planned(config, "h100:8", data=8)
    four, _ = planned(config, "h100:8x2", data=16)
    assert one.seconds["interconnect"] == one.collectives["data"] / 450e9
    assert four.seconds["interconnect"] == four.collectives["data"] / 400e9
    inside, _ = planned(config, "h100:8x2", data=2, fsdp=4, tensor=2)
    expected = (
        inside.collectives["data"] / 400e9
        + (inside.collectives["fsdp"] + inside.collectives["tensor"]) / 450e9
    )
    assert inside.seconds["interconnect"] == pytest.approx(expected)
