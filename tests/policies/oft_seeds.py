"""Golden data of OpenVLA-OFT: a seed's folder, one variant of it, as our model takes it."""

import dataclasses
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import variants
from vla_jax.models.decoder import Decoder
from vla_jax.models.oft import OFT, OFTConfig
from vla_jax.models.pretrained.oft import OFTWeights
from vla_jax.models.pretrained.weights import Weights
from vla_jax.models.vit import ViT

DATA = pathlib.Path(__file__).parent / "data"
PADDING, SPACE, STOP = 32000, 29871, 2
FIRST_ACTION = 31744  # ids from here to PADDING are the 256 bins
VARIANTS = ("l1", "film", "discrete")


def folders():
    """Returns every seed's folder in the repository and below $VLA_JAX_GOLDEN."""
    roots = [DATA, *(pathlib.Path(p) for p in [os.environ.get("VLA_JAX_GOLDEN")] if p)]
    return [folder for root in roots for folder in sorted((root / "oft").glob("seed*"))]


def cases():
    """Returns (folder, variant) of everything that is there."""
    return [
        (folder, variant)
        for folder in folders()
        for variant in VARIANTS
        if (folder / f"outputs_{variant}.npz").exists()
    ]


class PaddedOFT(OFT):
    """The authors' training counts the embeddings of padding among those of the prompt (FiLM)."""

    padding = None

    def prompt(self, text, length):
        mean = super().prompt(text, length)
        if self.padding is None:
            return mean
        # PyTorch's embedding gives its padding no gradient.
        token = jax.lax.stop_gradient(self.decoder.embed(jnp.array([[PADDING]]), text.dtype)[0])
        count, padding = (x.astype(text.dtype)[:, None] for x in (length + 1, self.padding))
        return (mean * count + padding * token) / (count + padding)


class Seed:
    """One variant of one seed: our model with the seed's weights, inputs and golden outputs."""

    def __init__(self, folder, variant):
        self.folder, self.variant = folder, variant
        self.inputs = np.load(folder / "inputs.npz")
        self.outputs = np.load(folder / f"outputs_{variant}.npz")
        self.meta = json.loads((folder / "meta.json").read_text())
        self.chunk, self.dims = self.inputs["train_actions"].shape[1:]
        self.slots = self.chunk * self.dims
        given = _given(json.loads((folder / "config.json").read_text()))
        if variant == "discrete":
            weights = Weights(folder, given)
            oft = OFTConfig(vlm=weights.config, chunk=self.chunk, dims=self.dims)
        else:
            weights = OFTWeights(folder, chunk=self.chunk, heads=folder / variant, given=given)
            oft = weights.oft
        self.weights = weights
        vlm = dataclasses.replace(oft.vlm, dtype="float32", param_dtype="float32")
        self.oft = dataclasses.replace(oft, vlm=vlm)
        model = nnx.eval_shape(lambda: PaddedOFT(self.oft, weights.vocabulary, nnx.Rngs(0)))
        self.graph, state = nnx.split(model)
        abstract = trees.named_leaves(nnx.to_pure_dict(state))
        read = weights.read(vlm, abstract)
        # The discrete variant has no head.
        zeros = {name: jnp.zeros(leaf.shape) for name, leaf in abstract.items() if name not in read}
        assert not zeros or variant == "discrete"
        self.params = trees.nest(read | zeros)

    @functools.cached_property
    def training(self):
        """What `states` takes of the training call, and how many tokens of padding rows have."""
        ids, labels = self.inputs["train_input_ids"], self.inputs["train_labels"]
        prompts = [row[: np.argmax(label != -100)] for row, label in zip(ids, labels, strict=True)]
        return self._inputs("train", prompts), (ids == PADDING).sum(1)

    @functools.cached_property
    def acting(self):
        """What `states` takes of `predict_action`."""
        ids = self.inputs["predict_input_ids"]
        prompt = ids[0] if ids[0, -1] == SPACE else np.append(ids[0], SPACE)
        return self._inputs("predict", [prompt])

    def _inputs(self, call, prompts):
        pixels = self.inputs[f"{call}_pixel_values"]
        b, channels, height, width = pixels.shape
        views = pixels.reshape(b, channels // 6, 6, height, width).transpose(0, 1, 3, 4, 2)
        length = np.array([len(prompt) for prompt in prompts])
        # One slot more than the longest prompt: padding in front is no matter.
        tokens = np.zeros((b, length.max() + 1), np.int32)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[-len(prompt) :] = prompt
        out = {"images": views, "tokens": tokens, "prefix_length": length}
        if self.oft.vlm.state:
            proprio = self.outputs["proprio_normalized"]
            out["state"] = (proprio[:b] if call == "train" else proprio[-1:]).astype(np.float32)
        return jax.tree.map(jnp.asarray, out)


def _given(config):
    """Returns the towers' heads, which a true release tells by timm's names."""
    tiny = config.get("tiny_vision")
    if tiny is None:
        return None
    big = variants.OPENVLA_7B
    return dataclasses.replace(
        big,
        vision=_tower(big.vision, tiny["dino"]),
        fused_vision=_tower(big.fused_vision, tiny["siglip"]),
    )


def _tower(tower, tiny):
    return dataclasses.replace(tower, width=tiny["width"], heads=tiny["heads"])


def of_its_own(self, images):
    """Takes the place of `ViT.normalize`: golden pixels are normalised, three channels a tower."""
    return images[..., :3] if self.config.extra_tokens else images[..., 3:]


@functools.partial(jax.jit, static_argnames="graph")
def run(graph, params, inputs, padding=None, embeds=None):
    """Returns the states, what the decoder was given and said, the mask, the chunk and logits.

    With `embeds`, the decoder is given these.
    """
    model, seen = nnx.merge(graph, params), {}
    model.padding = padding
    call = Decoder.__call__

    def spy(self, x, positions, mask, *, asking, **options):
        x = x if embeds is None else embeds
        hidden, cache = call(self, x, positions, mask, **options)
        allowed = jnp.broadcast_to(mask.table(x.shape[1])[:, 0], (*x.shape[:2], x.shape[1]))
        seen.update(embeds=x, positions=positions, valid=mask.valid, allowed=allowed, hidden=hidden)
        return hidden[:, -asking:], cache

    normalize = ViT.normalize
    try:
        Decoder.__call__, ViT.normalize = spy, of_its_own
        states = model.states(prefix=inputs["tokens"].shape[1], **inputs)
    finally:
        Decoder.__call__, ViT.normalize = call, normalize
    logits = model.decoder.logits(states[:, : model.oft.slots + 1])
    return {"states": states, "actions": model.actions(states), "logits": logits, **seen}
