import types

import jax
import pytest

from vla_jax.runtime import chips

# As the runtimes name them: jax/_src/pallas/mosaic/tpu_info.py, nvidia-smi.
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "v7x",
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
}


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_a_device_is_recognised_by_its_kind(kind, name):
    assert chips.of(types.SimpleNamespace(device_kind=kind)) == chips.CHIPS[name]


def test_what_is_not_in_the_table_is_not_guessed():
    assert chips.of(jax.devices()[0]) is None  # a CPU
    assert chips.of(types.SimpleNamespace(device_kind="NVIDIA H100 PCIe")) is None
    assert chips.of(types.SimpleNamespace(device_kind="TPU v4 lite")) is None


def test_all_chips_are_named_by_some_kind():
    assert set(KINDS.values()) == set(chips.CHIPS)


@pytest.mark.parametrize("chip", chips.CHIPS.values(), ids=lambda chip: chip.name)
def test_the_numbers_have_the_right_units(chip):
    # Bytes of memory are read in tens of milliseconds, on all of them; links are slower.
    assert 0.005 < chip.memory / chip.bandwidth < 0.05
    # FLOPs per byte of memory at which the two balance.
    assert 100 < chip.flops / chip.bandwidth < 700
    assert chip.network < chip.interconnect < chip.bandwidth
