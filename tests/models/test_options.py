"""Every option of the model against a plain one in numpy: teacher-forced and with a cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN
from vla_jax.core.errors import UserError
from vla_jax.models import layers
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import Pool, ViT, ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig

PREFIX, SUFFIX, VIEWS, STATE = 14, 4, 2, 3
GEMMA = DecoderConfig(width=16, depth=2, mlp=24, heads=4, key_heads=1, head_dim=8)
GEMMA2 = dataclasses.replace(
    GEMMA,
    key_heads=2,
    post_norms=True,
    query_scale=0.3,
    attention_softcap=1.5,
    final_softcap=2.0,
    window=64,
)
LLAMA = dataclasses.replace(
    GEMMA,
    key_heads=4,
    activation="silu",
    rope_base=500.0,
    norm_offset=0.0,
    norm_epsilon=1e-5,
    embedding_scale=False,
    tied=False,
)
TOWER = ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp=16)
DINO = dataclasses.replace(
    TOWER,
    activation="gelu_exact",
    extra_tokens=3,
    layer_scale=True,
    features="penultimate",
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
)
POOLED = dataclasses.replace(TOWER, features="penultimate", pool=True)

MODELS = {
    "paligemma": {},
    "paligemma 2, state": {"decoder": GEMMA2, "state": STATE},
    "images only seen by all": {"decoder": GEMMA2, "attention": "image_only"},
    "images and state only seen by all": {"attention": "image_only", "state": STATE},
    "openvla": {
        "vision": DINO,
        "fused_vision": POOLED,
        "projector": "mlp3",
        "decoder": LLAMA,
        "attention": "causal",
        "images": "after_bos",
    },
    "openvla's images, prefix, state": {
        "vision": POOLED,
        "projector": "mlp2",
        "images": "after_bos",
        "state": STATE,
        "unroll": 2,
    },
    "palm-e": {"images": "inline", "state": STATE},
    "palm-e, causal, no state": {"images": "inline", "attention": "causal", "decoder": LLAMA},
    "smolvlm": {"shuffle": 2, "decoder": LLAMA, "attention": "causal"},
}


@functools.partial(jax.jit, static_argnames="graph")
def run(graph, params, tokens, length, observations):
    """Returns teacher-forced logits and those of prefill and steps, [b, n, v] each."""
    model = nnx.merge(graph, params)
    forced = model.logits(tokens=tokens, prefix_length=length, prefix=PREFIX, **observations)
    first, cache = model.prefill(
        tokens=tokens[:, :PREFIX], prefix_length=length, slots=SUFFIX - 1, **observations
    )

    def step(cache, token):
        logits, cache = model.step(token[:, None], cache)
        return cache, logits[:, 0]

    _, rest = jax.lax.scan(step, cache, tokens[:, PREFIX:-1].T)
    return forced, jnp.concatenate([first, jnp.swapaxes(rest, 0, 1)], axis=1)


class Case:
    """A model and two examples: one with all it may have, one with less and a shorter prefix."""

    def __init__(self, filled, changes):
        self.config = VLMConfig(
            **{"vision": TOWER, "decoder": GEMMA, "dtype": "float32", "remat": "none"} | changes
        )
        model = filled(lambda: VLM(self.config, 30, nnx.Rngs(0)))
        self.graph, state = nnx.split(model)
        self.params = nnx.to_pure_dict(state)
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (2, VIEWS, 8, 8, 3)).astype(np.uint8)
        self.image_mask = np.array([[True, True], [False, True]])
        self.state = rng.uniform(-1, 1, (2, STATE)).astype(np.float32)
        self.state_mask = np.array([[True, True, False], [False] * 3])
        self.tokens = rng.integers(3, 30, (2, PREFIX + SUFFIX)).astype(np.int32)
        self.length = np.array([PREFIX, 11])
        if self.config.images == "inline":
            # Four patches a view, one text token before, between and after; the state's own place.
            self.tokens[0, 1:9] = IMAGE_TOKEN
            self.tokens[1, 4:12] = IMAGE_TOKEN
            self.tokens[0, 3] = self.tokens[1, 7] = 7
            if self.config.state:
                self.tokens[:, 12] = STATE_TOKEN
        self.tokens[1, : PREFIX - 11] = 0

    def run(self, tokens=None, images=None):
        observations = {
            "images": self.images if images is None else images,
            "image_mask": self.image_mask,
        }
        if self.config.state:
            observations |= {"state": self.state, "state_mask": self.state_mask}
        tokens = self.tokens if tokens is None else tokens
        out = run(self.graph, self.params, tokens, self.length, observations)
        return tuple(np.asarray(logits) for logits in out)

    def reference(self, row):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.params)
        state = None
        if self.config.state and self.state_mask[row].any():
            state = np.where(self.state_mask[row], self.state[row], 0)
        words = self.tokens[row, PREFIX - self.length[row] : PREFIX].tolist()
        images = self.images[row][self.image_mask[row]]
        if self.config.images == "inline" and not self.image_mask[row].all():
            # The tokens of an absent view are padding: here they are not in the sentence.
            off = self.config.image_tokens * np.sum(~self.image_mask[row])
            absent = [n for n, word in enumerate(words) if word == IMAGE_TOKEN][:off]
            words = [word for n, word in enumerate(words) if n not in absent]
        suffix = self.tokens[row, PREFIX:].tolist()
        return reference.logits(self.config, params, images, words, suffix, state)


@pytest.fixture(scope="module", params=list(MODELS))
def case(request, filled):
    return Case(filled, MODELS[request.param])


def test_teacher_forced_and_cached_logits_are_those_of_the_plain_model(case):
    forced, cached = case.run()
    for row in range(2):
        expected = case.reference(row)
        assert np.std(expected) > 0.1
        np.testing.assert_allclose(forced[row], expected, atol=2e-5)
        np.testing.assert_allclose(cached[row], expected, atol=2e-5)


def test_no_suffix_token_changes_what_comes_before_it(case):
    before = case.run()
    for j in range(SUFFIX - 1):
        tokens = case.tokens.copy()
        tokens[:, PREFIX + j] = 32 - tokens[:, PREFIX + j]
        for found, expected in zip(case.run(tokens), before, strict=True):
            changed = np.abs(found - expected).max(axis=(0, 2))
            assert (changed[: j + 1] < 1e-6).all()
            assert (changed[j + 1 :] > 1e-4).all()


def test_every_view_that_is_there_counts_and_no_other(case):
    before, _ = case.run()
    for view in range(VIEWS):
        images = case.images.copy()
        images[:, view] = 255 - images[:, view]
        changed = np.abs(case.run(images=images)[0] - before).max(axis=2)
        seen = case.image_mask[:, view]
        assert (changed[seen] > 1e-5).all()
        assert (changed[~seen] == 0).all()


def test_the_pooling_head_asks_all_features(filled):
    head = filled(lambda: Pool(TOWER, layers.Initializer(nnx.Rngs(0), jnp.dtype("float32"))))
    x = np.random.default_rng(1).normal(size=(2, 4, 8)).astype(np.float32)
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(head)))
    expected = np.stack([reference.pool(TOWER, params, row) for row in x])
    np.testing.assert_allclose(head(x), expected, atol=1e-5)


def test_layers_that_nobody_asks_are_kept_and_change_nothing(filled):
    tower = filled(lambda: ViT(POOLED, nnx.Rngs(0), jnp.dtype("float32")))
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    before = np.asarray(tower(image))
    graph, state = nnx.split(tower)
    params = nnx.to_pure_dict(state)
    assert params["blocks"]["up"].shape == (1, 8, 16)
    assert params["unused"]["up"].shape == (8, 16)
    for part in ("unused", "pool", "norm_scale", "norm_bias"):
        params[part] = jax.tree.map(lambda leaf: leaf + 1, params[part])
    np.testing.assert_array_equal(nnx.merge(graph, params)(image), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "image_only", "images": "inline"}, "first, for attention=image_only"),
        ({"shuffle": 3}, "a divisor of 2 patches per side"),
        ({"fused_vision": dataclasses.replace(TOWER, image_size=16)}, "number of patches"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        VLMConfig(**{"vision": TOWER, "decoder": GEMMA} | changes)


def shapes_of_logits(config, **observations):
    def run(tokens, length):
        images = jnp.zeros((2, 1, 8, 8, 3), jnp.uint8)
        return VLM(config, 30, nnx.Rngs(0)).logits(images, tokens, length, 5, **observations)

    ids = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, 9), (2,))]
    return jax.eval_shape(run, *ids).shape


@pytest.mark.parametrize("size", [None, STATE + 1])
def test_a_state_of_another_size_is_refused(size):
    config = VLMConfig(vision=TOWER, decoder=GEMMA, state=STATE)
    assert shapes_of_logits(config, state=np.zeros((2, STATE), np.float32)) == (2, 4, 30)
    state = None if size is None else np.zeros((2, size), np.float32)
    with pytest.raises(UserError, match=f"state: expected {STATE} numbers"):
        shapes_of_logits(config, state=state)


def test_a_sequence_beyond_the_window_is_refused():
    for window, fits in ((12, True), (11, False)):
        config = VLMConfig(vision=TOWER, decoder=dataclasses.replace(GEMMA2, window=window))
        if fits:
            assert shapes_of_logits(config) == (2, 4, 30)
        else:
            with pytest.raises(UserError, match="at most 11 tokens of images and text"):
                shapes_of_logits(config)
