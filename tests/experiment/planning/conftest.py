"""A model of three layers, whose shapes are small and all different."""

import dataclasses

import pytest

from vla_jax.experiment.config import RunConfig
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig


@pytest.fixture
def config():
    base = RunConfig()
    return dataclasses.replace(
        base,
        model=VLMConfig(
            vision=ViTConfig(image_size=28, patch_size=7, width=32, depth=2, heads=4, mlp=48),
            decoder=DecoderConfig(width=64, depth=3, mlp=96, heads=4, key_heads=2, head_dim=8),
        ),
        loader=dataclasses.replace(base.loader, batch_size=16),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-3),
    )
