"""OpenVLA-OFT as its authors' own code computes it, with the same files, to 1e-5.

Every seed in the repository and below $VLA_JAX_GOLDEN; what a seed lacks is left out. What is
behind the decoder's input is compared from the golden input on: differences of image tokens in
their last bits grow in it (in float64, from 5e-6 to 1.2e-5), so that from pixels to actions twice
as much is allowed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oft_seeds
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import action_heads
from vla_jax.models.pretrained import table
from vla_jax.models.pretrained.oft import family
from vla_jax.models.vit import ViT

CASES = oft_seeds.cases()
ids = [f"{folder.name}-{variant}" for folder, variant in CASES]
every = pytest.mark.parametrize("case", CASES, ids=ids)
TOLERANCE = 1e-5
FROM_PIXELS = 2 * TOLERANCE
OF_GRADIENTS = 3e-5  # of their norms, relative


def test_there_is_golden_data():
    assert CASES


@functools.cache
def seed_of(case):
    return oft_seeds.Seed(*case)


@functools.cache
def from_pixels(case, call):
    seed = seed_of(case)
    inputs, padding = seed.training if call == "train" else (seed.acting, None)
    return jax.tree.map(np.asarray, oft_seeds.run(seed.graph, seed.params, inputs, padding))


@functools.cache
def from_embeddings(case, call):
    """What follows when the decoder is given what the authors' was given."""
    seed, first = seed_of(case), from_pixels(case, call)
    embeds, theirs = first["embeds"].copy(), seed.outputs[f"{call}_inputs_embeds"]
    for n, mask in enumerate(masks(seed, call)):
        embeds[n, first["valid"][n]] = theirs[n, mask]
    inputs, padding = seed.training if call == "train" else (seed.acting, None)
    run = oft_seeds.run(seed.graph, seed.params, inputs, padding, embeds)
    return jax.tree.map(np.asarray, run)


def trained(case):
    return from_embeddings(case, "train")


def acted(case):
    return from_embeddings(case, "predict")


def masks(seed, call):
    """Returns the valid slots of the authors' sequences."""
    if call == "train":
        return seed.outputs["train_mm_attention_mask"]
    return np.ones(seed.outputs["predict_inputs_embeds"].shape[:2], bool)


def near(found, expected, stage="", tolerance=TOLERANCE):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    scale = max(1, np.abs(expected).max())
    error = np.abs(found - expected).max() / scale
    assert error <= tolerance, f"{stage}: {error:.1e}"


def sequence(found, name):
    """Returns what the decoder was given or said of the valid slots, row by row."""
    return [x[valid] for x, valid in zip(found[name], found["valid"], strict=True)]


@every
def test_what_the_decoder_is_given(case):
    """BOS, image tokens, proprioception, the prompt, empty slots and the stop token, in order."""
    seed = seed_of(case)
    for call in ("train", "predict"):
        found, mask = from_pixels(case, call), masks(seed, call)
        for n, (own, positions) in enumerate(
            zip(sequence(found, "embeds"), sequence(found, "positions"), strict=True)
        ):
            near(own, seed.outputs[f"{call}_inputs_embeds"][n][mask[n]], f"{call} embeddings {n}")
            np.testing.assert_array_equal(positions, np.arange(mask[n].sum()))
            allowed = found["allowed"][n]
            assert allowed[:, found["valid"][n]].all()
            assert not allowed[:, ~found["valid"][n]].any()
            theirs = seed.outputs[f"{call}_sdpa_allowed"][n]
            assert theirs[:, mask[n]].all()
            assert not theirs[:, ~mask[n]].any()


@every
def test_hidden_states(case):
    seed = seed_of(case)
    mask = masks(seed, "train")
    for n, own in enumerate(sequence(trained(case), "hidden")):
        near(own, seed.outputs["train_last_hidden"][n][mask[n]], f"train hidden {n}")
    (own,) = sequence(acted(case), "hidden")
    near(own, seed.outputs["predict_last_hidden"][0], "predict hidden")


@every
def test_the_states_of_a_chunk(case):
    """They are one ahead of its slots."""
    seed = seed_of(case)
    own = acted(case)["states"][:, : seed.slots]
    near(own, seed.outputs["predict_actions_hidden"], "predict states")
    start = seed.outputs["predict_read_start"]
    assert acted(case)["valid"][0].sum() - 2 - seed.slots == start
    if "train_actions_hidden" in seed.outputs:
        own = trained(case)["states"][:, : seed.slots]
        near(own, seed.outputs["train_actions_hidden"], "train states")


@every
def test_actions_and_their_loss(case):
    seed = seed_of(case)
    if seed.variant == "discrete":
        pytest.skip("no head")
    own, given = trained(case)["actions"], jnp.asarray(seed.inputs["train_actions"])
    near(own, seed.outputs["train_pred_actions"], "train actions")
    near(jnp.mean(action_heads.l1(own, given)), seed.outputs["train_loss"], "loss")
    for name, part in (("curr_action", slice(0, 1)), ("next_actions", slice(1, None))):
        error = jnp.mean(action_heads.l1(own[:, part], given[:, part]))
        near(error, seed.outputs[f"train_metric_{name}_l1_loss"], name)
    near(acted(case)["actions"][0], seed.outputs["predict_normalized"], "predict actions")


@every
def test_from_pixels_to_actions(case):
    seed = seed_of(case)
    train, predict = (from_pixels(case, call) for call in ("train", "predict"))
    if seed.variant == "discrete":
        expected = seed.outputs["predict_token_ids"]
        np.testing.assert_array_equal(predict["logits"][:, :-1].argmax(-1), expected)
        return
    near(train["actions"], seed.outputs["train_pred_actions"], "train", FROM_PIXELS)
    near(predict["actions"][0], seed.outputs["predict_normalized"], "predict", FROM_PIXELS)
    loss = jnp.mean(action_heads.l1(train["actions"], jnp.asarray(seed.inputs["train_actions"])))
    near(loss, seed.outputs["train_loss"], "loss")


@every
def test_robot_units(case):
    seed = seed_of(case)
    if seed.variant == "discrete":
        pytest.skip("no head")
    kind = "q99" if "q99" in seed.meta["norm"].lower() else "minmax"
    bounds, proprio = seed.weights.statistics(kind, seed.meta["key"])
    found = bounds.unnormalize(seed.outputs["predict_normalized"])
    np.testing.assert_allclose(found, seed.outputs["predict_actions"], rtol=1e-6, atol=1e-12)
    near(bounds.unnormalize(acted(case)["actions"][0]), seed.outputs["predict_actions"], "units")
    if proprio is not None:
        found = proprio.normalize(seed.inputs["proprio_raw"])
        np.testing.assert_allclose(found, seed.outputs["proprio_normalized"], rtol=0, atol=1e-12)


@every
def test_logits(case):
    """The loss of text over the same hidden states; the bins of the discrete variant."""
    seed = seed_of(case)
    logits = trained(case)["logits"].astype(np.float64)
    labels = seed.inputs["train_labels"]
    wanted = np.stack([row[row != -100] for row in labels])
    assert wanted.shape[1] == seed.slots + 1
    said = np.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0]
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    near((total - said).mean(), seed.outputs["train_lm_loss"], "text loss")
    if seed.variant == "discrete":
        bins = slice(oft_seeds.FIRST_ACTION, oft_seeds.PADDING)
        expected = seed.outputs["train_logits_at_actions"]
        near(logits[:, :-1, bins], expected, "train logits")
        logits = acted(case)["logits"][:, :-1]
        near(logits[..., bins], seed.outputs["predict_logits_action_vocab"], "predict logits")
        np.testing.assert_array_equal(logits.argmax(-1), seed.outputs["predict_token_ids"])


@functools.partial(jax.jit, static_argnames="graph")
def gradients(graph, params, inputs, actions, padding):
    def loss(params):
        model = nnx.merge(graph, params)
        model.padding = padding
        states = model.states(prefix=inputs["tokens"].shape[1], **inputs)
        return jnp.mean(action_heads.l1(model.actions(states), actions))

    return jax.grad(loss)(params)


@every
def test_gradients(case, monkeypatch):
    """The norm of each parameter's; adapters are merged here, and the matrices' are the same."""
    seed = seed_of(case)
    if seed.variant == "discrete":
        pytest.skip("no head")
    monkeypatch.setattr(ViT, "normalize", oft_seeds.of_its_own)
    inputs, padding = seed.training
    actions = jnp.asarray(seed.inputs["train_actions"])
    found = trees.named_leaves(gradients(seed.graph, seed.params, inputs, actions, padding))
    shapes = {name: leaf.shape for name, leaf in found.items()}
    norms = {}
    for entry in table.entries(family(seed.oft.vlm), shapes, seed.weights.files.tensors):
        places = [found[p.leaf][... if p.index is None else p.index] for p in entry.places]
        norms[entry.name] = float(np.linalg.norm(np.asarray(entry.pack(places), np.float64)))
    compared = set()
    for theirs, norm in zip(
        seed.outputs["train_grad_names"], seed.outputs["train_grad_norms"], strict=True
    ):
        if ".lora_" in theirs:
            continue
        name = plain(str(theirs))
        compared.add(name)
        assert abs(norms[name] - norm) <= OF_GRADIENTS * max(1, norm), name
    assert all(norm == 0 for name, norm in norms.items() if name not in compared)
    assert len(compared) > 50


def plain(name):
    """Turns the name of a parameter in the authors' modules into that of a tensor in our table."""
    part, _, name = name.partition("/")
    if part != "vla":
        return f"{part}.module.{name}"
    name = name.replace("vision_backbone.vision_backbone.", "vision_backbone.")
    return name.replace(".base_layer.", ".").replace(".block.", ".")
