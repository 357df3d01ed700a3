import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core.errors import UserError
from vla_jax.models.vit import ViT, ViTConfig, sincos2d

SMALL = {"image_size": 12, "patch_size": 4, "width": 8, "depth": 2, "heads": 2, "mlp": 16}
STEMS = [{}, {"stem_strides": (2, 2), "stem_widths": (6,)}]
IMAGE = np.random.default_rng(0).uniform(-1, 1, (1, 12, 12, 3)).astype(np.float32)


@functools.partial(nnx.jit, static_argnames=("remat", "unroll"))
def call(tower, images, **options):
    return tower(images, **options)


@pytest.fixture
def make(filled):
    def make(**changes):
        config = ViTConfig(**SMALL | changes)
        return filled(lambda: ViT(config, nnx.Rngs(0), jnp.dtype("float32")))

    return make


@pytest.fixture
def without_layers(make):
    """The tower with layers that add nothing: stem, positions and the last norm remain."""

    def build(**changes):
        tower = make(**changes)
        for name in ("out", "out_bias", "down", "down_bias"):
            parameter = getattr(tower.blocks, name)
            parameter[...] = jnp.zeros_like(parameter[...])
        return tower

    return build


@pytest.mark.parametrize("positions", ["learned", "sincos2d"])
@pytest.mark.parametrize("stem", STEMS)
def test_one_feature_per_patch(make, stem, positions):
    features = call(make(positions=positions, **stem), IMAGE)
    assert features.shape == (1, 9, 8)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("stem", STEMS)
def test_a_token_sees_its_own_patch_in_row_order(without_layers, stem):
    tower = without_layers(**stem)
    before = np.asarray(call(tower, IMAGE))
    for row in range(3):
        for column in range(3):
            changed = IMAGE.copy()
            changed[0, 4 * row + 1, 4 * column + 2] *= -1
            differs = np.abs(np.asarray(call(tower, changed)) - before).max(axis=-1)[0] > 1e-6
            assert np.flatnonzero(differs).tolist() == [3 * row + column]


def test_the_stem_is_a_projection_of_the_pixels_in_row_column_channel_order(without_layers):
    tower = without_layers()
    patch = IMAGE[0, 4:8, 8:12].reshape(-1)  # row 1, column 2
    x = patch @ np.asarray(tower.stem0[...]) + np.asarray(tower.position[...])[5]
    x = x + np.asarray(tower.stem0_bias[...])
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    expected = expected * np.asarray(tower.norm_scale[...]) + np.asarray(tower.norm_bias[...])
    np.testing.assert_allclose(call(tower, IMAGE)[0, 5], expected, rtol=1e-4, atol=1e-5)


def test_layers_mix_all_patches(make):
    tower = make()
    changed = IMAGE.copy()
    changed[0, 0, 0] += 1
    assert (np.abs(call(tower, changed) - call(tower, IMAGE)).max(axis=-1) > 1e-7).all()


def test_unrolling_and_remat_change_nothing(make):
    tower = make()
    expected = call(tower, IMAGE)
    for options in ({"unroll": 2}, {"remat": "full"}, {"remat": "dots"}):
        np.testing.assert_allclose(call(tower, IMAGE, **options), expected, rtol=1e-5, atol=1e-6)


def test_fixed_positions_tell_all_patches_apart():
    table = sincos2d(4, 128)
    assert table.shape == (16, 128)
    assert np.abs(table).max() <= 1
    distance = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert distance[~np.eye(16, dtype=bool)].min() > 1
    # Rows and columns are coded alike: swapping them swaps the halves.
    grid = table.reshape(4, 4, 2, 64)
    np.testing.assert_allclose(grid, grid.transpose(1, 0, 2, 3)[:, :, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 13}, "patch_size divides image_size"),
        ({"heads": 3}, "heads divides width"),
        ({"stem_strides": (2, 3), "stem_widths": (4,)}, "a product of 4"),
        ({"stem_strides": (2, 2)}, "one stem_width between two stages"),
        ({"positions": "sincos2d", "width": 6, "heads": 2}, "a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ViTConfig(**SMALL | changes)
