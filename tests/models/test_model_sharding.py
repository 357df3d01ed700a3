"""Where every parameter of every named model lies on a mesh."""

import re

import jax
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import variants, vlm
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding

P = jax.sharding.PartitionSpec
VARIANTS = variants.variants()
MESH = mesh_lib.abstract_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2), 8)

# Whole name without `blocks/`, `unused/` or `pool/` -> the place of one layer's parameter.
TOWER = r"(fused_)?vision/"
PLACES = (
    (rf"{TOWER}stem\d", P(None, "fsdp")),
    (rf"{TOWER}(position|extra)", P(None, "fsdp")),
    (rf"{TOWER}(query|key|value)", P("fsdp", "tensor", None)),
    (rf"{TOWER}(query|key|value)_bias", P("tensor", None)),
    (r"decoder/query", P("fsdp", "tensor", None)),
    (r"decoder/(key|value)", P("fsdp", None, None)),
    (rf"({TOWER}|decoder/)out", P("tensor", None, "fsdp")),
    (rf"({TOWER}|decoder/)(up|gate)", P("fsdp", "tensor")),
    (rf"({TOWER}|decoder/)down", P("tensor", "fsdp")),
    (rf"{TOWER}up_bias", P("tensor")),
    (r"decoder/(embedding|head)", P("tensor", "fsdp")),
    (r"projector/kernel\d|state/(up|down)", P(None, "fsdp")),
    # Vectors of the residual stream are needed whole on every device.
    (r".*(norm|norm_scale|norm_bias|_scale|out_bias|down_bias|stem\d_bias|probe)", P(None)),
    (r"projector/bias\d|state/(up|down)_bias", P(None)),
)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_lies_where_it_should(name):
    model = nnx.eval_shape(lambda: vlm.VLM(VARIANTS[name], 1024, nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model))
    axes = vlm.logical_axes(model)
    placed = sharding.shardings(params, axes, MESH)
    refused = sharding.fallbacks(params, axes, MESH)  # the fifteen heads of smol_500m
    shapes = {leaf: value.shape for leaf, value in trees.named_leaves(params).items()}
    for leaf, place in trees.named_leaves(placed).items():
        spec = place.spec
        assert len(spec) == len(shapes[leaf]), leaf
        if "/blocks/" in leaf:
            assert spec[0] is None, leaf  # a split stack would move every layer at every step
            spec = P(*spec[1:])
        short = re.sub(r"(blocks|unused|pool)/", "", leaf)
        expected = next((where for names, where in PLACES if re.fullmatch(names, short)), None)
        assert expected is not None, f"nobody said where {leaf} {shapes[leaf]} should lie"
        inside = shapes[leaf][-len(spec) :]
        if any(axis and size % 2 for axis, size in zip(expected, inside, strict=True)):
            assert any(line.startswith(f"{leaf}: ") for line in refused), leaf
            expected = P(
                *(None if n % 2 else axis for axis, n in zip(expected, inside, strict=True))
            )
        assert spec == expected, leaf
    # Nothing large is on every device.
    split = [
        value.size
        for leaf, value in trees.named_leaves(params).items()
        if any(trees.named_leaves(placed)[leaf].spec)
    ]
    assert sum(split) > 0.98 * trees.size(params)
