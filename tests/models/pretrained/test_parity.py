"""What the authors' own code computed with the same files, to 1e-5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.models import pretrained
from vla_jax.models.vlm import VLM

TOLERANCE = 1e-5


def near(found, expected):
    assert np.shape(found) == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["pg1", "pg2"])
def test_paligemma_as_big_vision_computes_it(golden, paligemma, name):
    model, io = paligemma(name), golden(name)[1]
    module = nnx.merge(model.graph, model.params)
    images = jnp.asarray((io["img"] + 1) * 127.5)[:, None]  # Pixels as the VLM takes them.
    near(module.encode(images), io["zimg"])
    prefix = int(np.argmax(io["mask_ar"][0]))
    # A slot more than the text: logits of the last token are compared too.
    tokens = np.pad(io["txt"], [(0, 0), (0, 1)])
    logits = model.logits(images, tokens, np.array([prefix, prefix]))
    near(logits, io["logits"][:, prefix - 1 :])
    assert io["logits"].std() > 0.9  # The tolerance means something.


@pytest.mark.parametrize("name", ["pg1", "pg2"])
def test_paligemma_decodes_the_tokens_of_big_vision(golden, paligemma, name):
    """Cached steps over the golden suffix choose what the golden logits choose."""
    model, io = paligemma(name), golden(name)[1]
    prefix = int(np.argmax(io["mask_ar"][0]))
    images = jnp.asarray((io["img"] + 1) * 127.5)[:, None]
    low, high = 100, 164  # A grammar of 64 legal ids.
    logits = stepped(model, images, io["txt"][:, :prefix], io["txt"][:, prefix:])
    near(logits, io["logits"][:, prefix - 1 :])
    expected = io["logits"][:, prefix - 1 :, low:high].argmax(-1)
    np.testing.assert_array_equal(logits[..., low:high].argmax(-1), expected)


def stepped(model, images, prefix, suffix):
    """Returns logits of prefill and of one cached step per suffix token."""
    length = jnp.full(len(prefix), prefix.shape[1], jnp.int32)
    first, cache = _prefill(model.graph, model.params, images, prefix, length, suffix.shape[1])
    out = [first]
    for column in suffix.T:
        logits, cache = _step(model.graph, model.params, column[:, None], cache)
        out.append(logits)
    return np.concatenate(out, axis=1)


@functools.partial(jax.jit, static_argnames=("graph", "slots"))
def _prefill(graph, params, images, tokens, length, slots):
    return nnx.merge(graph, params).prefill(images, tokens, length, slots)


@functools.partial(jax.jit, static_argnames="graph")
def _step(graph, params, token, cache):
    return nnx.merge(graph, params).step(token, cache)


@pytest.fixture
def normalized(monkeypatch):
    """The golden pixels of OpenVLA are normalised, another three channels for each tower."""

    def features(self, pixels, *_):
        return jnp.concatenate(
            [self.vision(pixels[..., :3]), self.fused_vision(pixels[..., 3:])], -1
        )

    monkeypatch.setattr(VLM, "features", features)


def test_openvla_as_its_authors_compute_it(golden, openvla_config, normalized):
    path, io = golden("openvla")
    model = pretrained.load(path, openvla_config)
    pixels = jnp.asarray(io["px"]).transpose(0, 2, 3, 1)[:, None]
    near(nnx.merge(model.graph, model.params).encode(pixels), io["proj"])
    # [<s>, 16 image tokens, rest of the prompt]: logits of all but the first two tokens of text.
    ids = io["ids"].astype(np.int32)
    tokens = np.pad(ids, [(0, 0), (0, 1)])
    logits = model.logits(pixels, tokens, np.array([2]))
    near(logits, io["logits"][:, 17:])
    # Greedy decoding, cached.
    generated = io["gen"].astype(np.int32)
    found = stepped(model, pixels, ids, generated[None, :-1])
    np.testing.assert_array_equal(found[0].argmax(-1), generated)
