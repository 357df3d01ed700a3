"""What trains and what it weighs, on models of real sizes that are never made."""

import dataclasses

import pytest

from vla_jax.cli import inspect
from vla_jax.experiment import inventory
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.models import variants
from vla_jax.models.lora import LoraConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.train.optimizer import OptimizerConfig
from vla_jax.train.strategy import StrategyConfig

OPENVLA = variants.variants()["openvla_siglip_7b"]
# OpenVLA's table 1, millions of trained parameters; LoRA there packs three matrices in one and
# adapts the patches and the head too, see tests/models/test_lora.py.
TRAINED = {
    "full": 7_188.1,
    "last_layer": 465.1,
    "frozen_vision": 6_760.4,
    "sandwich": 914.2,
    "lora": 98.4,
    "qlora": 98.4,
}


def inventory_of(kind, **optimizer):
    config = RunConfig(
        model=dataclasses.replace(OPENVLA, dtype="bfloat16"),
        strategy=StrategyConfig(kind=kind, lora=LoraConfig(rank=32)),
        optimizer=OptimizerConfig(**optimizer),
    )
    model = Model(config, 32_064, mesh_lib.abstract_mesh(mesh_lib.MeshConfig(), 1))
    return {part.name: part for part in inventory.parts(model)}


@pytest.mark.parametrize("kind", TRAINED)
def test_as_much_is_trained_as_published(kind):
    parts = inventory_of(kind)
    total = parts["total"]
    assert total.trained / 1e6 == pytest.approx(TRAINED[kind], abs=0.1)
    assert total.parameters / 1e6 == pytest.approx(7_188.1, abs=0.1)
    # Two float32 moments and one gradient of what is trained, nothing of the rest.
    assert total.moments == 8 * total.trained
    assert total.gradients == 4 * total.trained
    rows = [part for name, part in parts.items() if name != "total"]
    for field in ("parameters", "trained", "weights", "moments", "gradients"):
        assert sum(getattr(row, field) for row in rows) == getattr(total, field)
    if kind == "frozen_vision":
        vision = parts["vision"]
        assert (vision.trained, vision.moments) == (0, 0)
        assert vision.weights < 2.02 * vision.parameters  # bfloat16, but for norms and biases


def test_a_base_of_four_bits_takes_a_fraction():
    weights = {kind: inventory_of(kind)["total"].weights for kind in ("full", "lora", "qlora")}
    assert weights["lora"] / weights["full"] == pytest.approx(0.51, abs=0.02)
    assert weights["qlora"] / weights["full"] == pytest.approx(0.17, abs=0.02)


def test_an_average_and_small_momentum_are_counted():
    total = inventory_of("full", ema_decay=0.99, momentum_dtype="bfloat16")["total"]
    assert total.average == 4 * total.trained
    assert total.moments == 6 * total.trained


def test_the_table_needs_no_data(capsys):
    inspect.main(
        [
            "configs/tabletop.py",
            "--params",
            "--config.data_dir=nowhere",
            "--config.strategy.kind=lora",
        ]
    )
    out = capsys.readouterr()
    text = out.out + out.err
    assert "strategy lora" in text
    assert "decoder/blocks" in text
