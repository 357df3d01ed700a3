"""RT-1's golden seeds: the authors' parameters, inputs and everything that came of them."""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.core import trees
from vla_jax.models.efficientnet import EfficientNetConfig, Stage, convolve
from vla_jax.models.pretrained import rt1 as keys
from vla_jax.models.rt1 import RT1, loss
from vla_jax.models.rt1_config import RT1Config

HERE = pathlib.Path(__file__).parent / "data" / "rt1"


def folders():
    """Returns every seed, of the repository and below `$VLA_JAX_GOLDEN`."""
    roots = [HERE]
    if given := os.environ.get("VLA_JAX_GOLDEN"):
        roots.append(pathlib.Path(given) / "rt1")
    return [folder for root in roots for folder in sorted(root.glob("seed*"))]


def make_config(values):
    """Returns the model of a config.json."""
    net, blocks = values["net"], values["blocks"]
    stages = tuple(
        Stage(
            filters=block["output_filters"],
            repeats=block["num_repeat"],
            window=block["kernel_size"],
            stride=block["strides"][0],
            expansion=block["expand_ratio"],
        )
        for block in blocks
    )
    vision = EfficientNetConfig(
        image_size=values["image"],
        width=values["width"],
        depth=values["depth"],
        stages=stages,
        stem=values["stem_base_filters"],
        top=values["top_base_filters"],
        divisor=values["depth_divisor"],
        squeeze=values["se_ratio"],
        norm_momentum=values["bn_momentum"],
        norm_epsilon=values["bn_epsilon"],
    )
    return RT1Config(
        vision=vision,
        context=values["ctx"],
        image_features=net["image_num_features"],
        image_tokens=net["num_image_tokens"],
        token_learner=net["use_token_learner"],
        action_tokens=net["num_action_tokens"],
        vocabulary=net["vocab_size"],
        frames=values["seqlen"],
        width=net["feed_forward_output_size"],
        depth=net["num_layers"],
        heads=net["num_heads"],
        head_dim=net["layer_size"],
        feed_forward=net["ffn_option"],
        mlp=net["feed_forward_hidden_size"],
        previous_actions=net["include_prev_timesteps_actions"],
        dtype="float32",
    )


class Seed:
    """One folder: what went in, what came out, and the model with the authors' parameters."""

    def __init__(self, folder):
        self.folder = folder
        values = json.loads((folder / "config.json").read_text())
        self.config, self.world = make_config(values), tuple(values["net"]["world_vector_range"])
        self.inputs = dict(np.load(folder / "inputs.npz"))
        self.outputs = dict(np.load(folder / "outputs.npz"))
        self.tensors = keys.read(folder / "params.npz")
        self.values = keys.unpack(self.config, self.tensors, str(folder))
        self.graph = nnx.split(nnx.eval_shape(lambda: RT1(self.config, nnx.Rngs(0))))[0]

    def model(self):
        values = {name: jnp.asarray(value) for name, value in self.values.items()}
        return nnx.merge(self.graph, trees.nest(values))

    @property
    def images(self):
        return self.inputs["image_uint8"]

    @property
    def context(self):
        return self.inputs["natural_language_embedding"]

    @property
    def actions(self):
        prefix = "action/"
        held = self.inputs.items()
        return {n.removeprefix(prefix): v for n, v in held if n.startswith(prefix)}

    @property
    def tokens(self):
        """The authors' tokens of the actions, in the model's range."""
        return self.outputs["action_tokens"]

    @property
    def given(self):
        """What the model is given of them."""
        return self.tokens if self.config.takes_actions else None

    @functools.cached_property
    def stages(self):
        """Every stage by the names of outputs.npz, one after the other from the images on."""
        return jax.jit(self._stages)(self.images, self.context, self.given, self.tokens)

    def _stages(self, images, context, given, tokens):
        model, out = self.model(), {}
        frames = context.reshape(-1, context.shape[-1])
        pixels = model.vision.normalize(images.reshape(-1, *images.shape[2:]))
        out["image_normalized_first"] = pixels[None, :1, :8, :8]
        out["block_channel_means"] = block_means(model.vision, pixels, frames)
        out["effnet_out"] = model.vision(pixels, frames)[:2]
        features = out["features_after_1x1_and_film"] = model.features(images, context)
        learned = model.learn(features)
        out["image_tokens"] = learned.reshape(*images.shape[:2], *learned.shape[1:])
        out["transformer_input"] = model.sequence(out["image_tokens"], given)
        for number in range(self.config.depth):
            cut = up_to(model, number + 1)
            out[f"transformer/block_{number}"] = cut.hidden(out["image_tokens"], given)
        hidden = model.hidden(out["image_tokens"], given)
        out["logits"] = model.logits(hidden)
        out["action_logits"] = model.logits(model.asking(hidden))
        out["loss_eval_mode"] = loss(out["action_logits"], tokens)
        out["predicted_tokens_last_step"] = model.decode(out["image_tokens"], given)
        return out

    @functools.cached_property
    def alone(self):
        """The stages behind the images, each from what the authors' stage before it returned."""
        outputs = self.outputs
        return jax.jit(self._alone)(outputs["features_after_1x1_and_film"], outputs["image_tokens"])

    def _alone(self, features, image_tokens):
        model, out = self.model(), {}
        out["image_tokens"] = model.learn(features).reshape(image_tokens.shape)
        for number in range(self.config.depth):
            cut = up_to(model, number + 1)
            out[f"transformer/block_{number}"] = cut.hidden(image_tokens, self.given)
        out["logits_from_cached_tokens"] = model.logits(model.hidden(image_tokens, self.given))
        return out

    @functools.cached_property
    def trained(self):
        """Loss, logits, gradients and new statistics of a step in training, without dropout.

        Gradients and statistics by the authors' names.
        """
        model = self.model()
        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        labels = self.outputs["action_tokens_default_range"]

        def of(params, statistics, images, context):
            model = nnx.merge(graph, params, statistics, copy=True)
            tokens = model.encode(images, context, train=True)
            hidden = model.hidden(tokens, self.given)
            losses = loss(model.logits(model.asking(hidden)), labels)
            return losses.mean(), (model.logits(hidden), losses, nnx.state(model, nnx.BatchStat))

        step = jax.jit(jax.value_and_grad(of, has_aux=True))
        (_, (logits, losses, new)), gradients = step(params, statistics, self.images, self.context)
        leaves = {
            name: leaf
            for tree in (gradients, new)
            for name, leaf in trees.named_leaves(nnx.to_pure_dict(tree)).items()
        }
        return logits, losses, keys.pack(self.config, leaves)


def block_means(network, pixels, context):
    """Returns the mean of each feature behind each block, before its FiLM, in a row."""
    x, out = jax.nn.silu(network.stem_norm(convolve(pixels, network.stem[...], 2), False)), []
    for number in range(len(network.config.blocks)):
        x = getattr(network, f"block{number}")(x, False, 0.0, None)
        out.append(x.mean((0, 1, 2)))
        x = getattr(network, f"film{number}")(x, context)
    return jnp.concatenate(out)


def up_to(model, depth):
    """Returns the model with its first layers alone."""
    graph, state = nnx.split(model)
    values = nnx.to_pure_dict(state)
    values["blocks"] = jax.tree.map(lambda leaf: leaf[:depth], values["blocks"])
    return nnx.merge(graph, values)
