"""The train step of every named model compiles for GPUs and for TPUs; minutes, no accelerator.

Widths, heads, images and text are those of the model, layers are cut: a loop over more of the same
layer compiles the same body.
"""

import dataclasses

import pytest

from vla_jax.experiment.planning import compiling
from vla_jax.models import variants
from vla_jax.runtime import gpu_compiler
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.runtime.topology import Topology

LAYERS = 3  # of which a tower may leave out the last


def cut(model):
    def short(part):
        return part and dataclasses.replace(part, depth=min(part.depth, LAYERS))

    return dataclasses.replace(
        model,
        vision=short(model.vision),
        fused_vision=short(model.fused_vision),
        decoder=short(model.decoder),
    )


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["h100:8", "v5e:2x4"])
@pytest.mark.parametrize("name", variants.variants())
def test_the_train_step_compiles(config, name, topology, no_cache, monkeypatch, tmp_path):
    if topology.startswith("v"):
        pytest.importorskip("libtpu")
    elif gpu_compiler.version() is None:
        pytest.skip(f"needs the GPUs' compiler: {gpu_compiler.INSTALL}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    model = cut(variants.variants()[name])
    prompts = config.prompts
    if model.images == "inline":
        prompts = dataclasses.replace(prompts, robot="palme", web="palme")
    config = dataclasses.replace(
        config,
        model=model,
        prompts=prompts,
        mesh=MeshConfig(data=1, fsdp=8),
        loader=dataclasses.replace(config.loader, batch_size=8),
    )
    vocabulary = variants.vocabulary(variants.variants()[name]) or 1024
    try:
        found = compiling.train_step(config, vocabulary, Topology.parse(topology), lambda s: None)
    except compiling.NoRoomError as error:
        pytest.fail(f"no room: {error}")
    assert found.memory.arguments > 0
    if topology == "h100:8":
        heads = {model.decoder.head_dim, model.vision.width // model.vision.heads}
        is_bfloat16 = model.dtype == "bfloat16"
        assert ("cuDNN" in found.program.kernels) == (is_bfloat16 and min(heads) <= 128)
