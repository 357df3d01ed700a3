"""RT-1 against the authors' code, stage by stage, for every seed that there is."""

import dataclasses
import functools
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_rt1 import HERE, Seed, folders

from vla_jax.actions import rt1 as codec
from vla_jax.core.errors import UserError
from vla_jax.models import rt1, rt1_config
from vla_jax.models.pretrained import rt1 as keys

FEATURES = ("block_channel_means", "effnet_out", "features_after_1x1_and_film")
PRESETS = {
    "rt1x": rt1_config.RT1_X,
    "rt1_linear": rt1_config.RT1_35M,
    "rt1_swiglu": dataclasses.replace(rt1_config.RT1_35M, feed_forward="swiglu"),
}
PUBLISHED = {"rt1x": 56_896_809, "rt1_linear": 35_116_448}
FOLDERS = folders()


@functools.lru_cache(1)
def open_seed(folder):
    return Seed(folder)


@pytest.fixture(params=FOLDERS, ids=[f"{f.parents[1].name}-{f.name}" for f in FOLDERS])
def seed(request):
    return open_seed(request.param)


def need(seed, *names):
    if absent := [name for name in names if name not in seed.outputs]:
        pytest.skip(f"{seed.folder.name} has no {', '.join(absent)}")
    return [seed.outputs[name] for name in names]


def compare(seed, found, tolerance=1e-5):
    """Compares what the seed has; the tolerance is for numbers of order 1."""
    compared = [name for name in found if name in seed.outputs]
    for name in compared:
        wide = 5e-5 if name in FEATURES else tolerance
        expected = seed.outputs[name]
        assert found[name].shape == expected.shape, name
        np.testing.assert_allclose(found[name], expected, atol=wide, rtol=1e-6, err_msg=name)
    assert compared


def test_there_are_seeds():
    assert FOLDERS


def test_every_stage_from_the_images_on(seed):
    compare(seed, seed.stages)


def test_every_stage_from_the_authors_stage_before(seed):
    need(seed, "features_after_1x1_and_film", "image_tokens")
    compare(seed, seed.alone)


def test_the_likeliest_tokens_are_theirs(seed):
    (expected,) = need(seed, "predicted_tokens_last_step")
    np.testing.assert_array_equal(seed.stages["predicted_tokens_last_step"], expected)


def test_masks(seed):
    (expected,) = need(seed, "attention_mask")
    np.testing.assert_array_equal(rt1.mask(seed.config), expected)


def test_losses_of_their_logits(seed):
    logits, tokens, expected = need(seed, "action_logits", "action_tokens", "loss_eval_mode")
    np.testing.assert_allclose(rt1.loss(logits, tokens), expected, rtol=0, atol=1e-5)
    if "loss_tf_scaling_mean" in seed.outputs:  # the TensorFlow code divides by all tokens, too
        scaled = expected.mean() / (math.prod(tokens.shape[:2]) * seed.config.frame_tokens)
        np.testing.assert_allclose(scaled, seed.outputs["loss_tf_scaling_mean"], rtol=1e-6)


def test_actions_to_tokens_and_back(seed):
    vocabulary, world = seed.config.vocabulary, seed.world
    tokens, plain = need(seed, "action_tokens", "action_tokens_default_range")
    np.testing.assert_array_equal(codec.encode(seed.actions, vocabulary, world), tokens)
    np.testing.assert_array_equal(codec.encode(seed.actions, vocabulary), plain)
    for name, value in codec.decode(tokens.reshape(-1, 11), vocabulary, world).items():
        expected = seed.outputs[f"detokenized/{name}"]
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)


def test_decoded_actions(seed):
    need(seed, "predicted_actions/world_vector")
    tokens = seed.stages["predicted_tokens_last_step"]
    for name, value in codec.decode(tokens, seed.config.vocabulary, seed.world).items():
        expected = seed.outputs[f"predicted_actions/{name}"]
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)


def test_their_policy(seed):
    """`RT1Policy.action`: its images are resized without smoothing, an unknown mode is the base."""
    need(seed, "policy_raw_images", "policy_action/world_vector")
    size, raw = seed.config.vision.image_size, seed.outputs["policy_raw_images"]
    shape = (len(raw), size, size, 3)
    images = jax.image.resize(jnp.float32(raw), shape, "linear", antialias=False)
    given = jnp.zeros((1, len(raw), 11), jnp.int32)
    model = seed.model()

    @jax.jit
    def act(images, context):
        return model.decode(model.encode(images, context), given)

    found = codec.decode(act(images[None], seed.context[:1])[0], seed.config.vocabulary, seed.world)
    found[codec.MODE] = codec.settle(found[codec.MODE])
    for name, value in found.items():
        expected = seed.outputs[f"policy_action/{name}"]
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5)


def test_a_step_in_training(seed):
    """Their own code, compiled by another JAX, differs by as much in the logits."""
    expected, labels = need(seed, "train_logits", "train_loss_notebook_per_example")
    logits, losses, held = seed.trained
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(losses, labels, rtol=0, atol=1e-5)
    names, statistics = need(seed, "new_batch_stats_names", "new_batch_stats")
    found = [held["batch_stats/" + name.removeprefix("batch_stats/")] for name in names]
    found = np.concatenate([value.ravel() for value in found])
    np.testing.assert_allclose(found, statistics, rtol=1e-5, atol=1e-5)
    names, norms = need(seed, "grad_names", "grad_norms")
    found = [np.linalg.norm(held["params/" + name.removeprefix("params/")]) for name in names]
    np.testing.assert_allclose(found, norms, rtol=5e-4, atol=1e-5 * norms.max())


def test_the_key_table_works_in_both_directions(seed, tmp_path):
    packed = keys.pack(seed.config, seed.values)
    assert packed.keys() == seed.tensors.keys()
    for name, value in packed.items():
        np.testing.assert_array_equal(value, seed.tensors[name], err_msg=name)
    keys.write(tmp_path, packed)
    for path in (tmp_path, tmp_path / keys.FILE):
        again = keys.read(path)
        assert again.keys() == packed.keys()
        assert all(np.array_equal(again[name], packed[name]) for name in packed)


def test_the_released_form_holds_the_same(seed):
    folder = seed.folder / "checkpoint_dir"
    if not folder.is_dir():
        pytest.skip(f"{seed.folder.name} has no checkpoint_dir")
    held = keys.read(folder)
    assert held.keys() == seed.tensors.keys()
    assert all(np.array_equal(held[name], seed.tensors[name]) for name in held)


def shape_files():
    more = [pathlib.Path(given) / "rt1" for given in [os.environ.get("VLA_JAX_GOLDEN")] if given]
    return [
        path for root in [HERE, *more] for path in sorted(root.glob("full_param_shapes_*.json"))
    ]


@pytest.mark.parametrize("path", shape_files(), ids=lambda path: path.stem)
def test_names_and_shapes_at_full_size(path):
    name = path.stem.removeprefix("full_param_shapes_")
    expected = {name: tuple(shape) for name, shape in json.loads(path.read_text()).items()}
    found = {entry.name: entry.shape for entry in keys.entries(PRESETS[name])}
    assert found == expected
    count = sum(math.prod(shape) for name, shape in found.items() if name.startswith("params/"))
    assert count == PUBLISHED.get(name, count)


def test_another_model_is_refused_in_one_line():
    seed = open_seed(FOLDERS[0])
    wider = dataclasses.replace(seed.config, width=seed.config.width + 8)
    with pytest.raises(
        UserError, match=r"checkpoint X \(RT-1\) does not fit: .*misshaped"
    ) as error:
        keys.unpack(wider, seed.tensors, "X")
    assert "\n" not in str(error.value)
    deeper = dataclasses.replace(seed.config, depth=seed.config.depth + 1)
    with pytest.raises(UserError, match=r"missing: params/Transformer_0/TransformerBlock_"):
        keys.unpack(deeper, seed.tensors, "X")
    shallower = dataclasses.replace(seed.config, depth=1)
    with pytest.raises(UserError, match="unexpected: params/Transformer_0/TransformerBlock_1"):
        keys.unpack(shallower, seed.tensors, "X")


def test_damaged_checkpoints_are_refused(tmp_path):
    seed = open_seed(FOLDERS[0])
    name = next(iter(seed.tensors))
    broken = seed.tensors | {name: np.full_like(seed.tensors[name], np.nan)}
    with pytest.raises(UserError, match=f"{name}: expected finite numbers"):
        keys.unpack(seed.config, broken, "X")
    with pytest.raises(UserError, match="checkpoint: cannot be read"):
        keys.read(tmp_path)
    keys.write(tmp_path, {"other/a": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match="expected params and batch_stats, found other"):
        keys.read(tmp_path)
    keys.write(tmp_path, seed.tensors)
    whole = (tmp_path / keys.FILE).read_bytes()
    (tmp_path / keys.FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="checkpoint: cannot be read"):
        keys.read(tmp_path)
