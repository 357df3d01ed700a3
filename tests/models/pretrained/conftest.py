"""The authors' own tiny checkpoints (see ../data/README.md), and writing safetensors."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from vla_jax.models import pretrained, variants

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def golden():
    """Returns (path of the checkpoint, golden arrays) of `pg1`, `pg2` or `openvla`."""

    def get(name):
        if name == "openvla":
            return str(DATA / name), np.load(DATA / name / "golden_io.npz")
        return str(DATA / f"{name}.npz"), np.load(DATA / f"{name}_io.npz")

    return get


@pytest.fixture(scope="session")
def paligemma(golden):
    """Returns the loaded `pg1` or `pg2`."""
    loaded = {name: pretrained.load(golden(name)[0]) for name in ("pg1", "pg2")}
    return loaded.__getitem__


@pytest.fixture(scope="session")
def openvla_config():
    """The sizes of the tiny OpenVLA, whose towers timm does not know."""
    big = variants.OPENVLA_7B
    tower = dataclasses.replace(big.vision, image_size=56, width=32, depth=3, heads=4, mlp=128)
    fused = dataclasses.replace(
        big.fused_vision, image_size=56, width=48, depth=3, heads=4, mlp=120
    )
    decoder = dataclasses.replace(
        big.decoder,
        width=64,
        depth=3,
        mlp=172,
        heads=4,
        key_heads=4,
        head_dim=16,
        norm_epsilon=1e-6,
    )
    return dataclasses.replace(
        big, vision=tower, fused_vision=fused, decoder=decoder, dtype="float32", remat="none"
    )


@pytest.fixture
def write(tmp_path):
    """Writes tensors and a config.json as a checkpoint folder; returns its path."""

    def folder(tensors, config, name="checkpoint"):
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        save_file(contiguous, path / "model.safetensors", metadata={"format": "pt"})
        return str(path)

    return folder
