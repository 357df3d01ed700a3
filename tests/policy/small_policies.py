"""Small policies with random parameters, built once per session; nothing here is trained."""

import copy
import dataclasses
import math
import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np
import tokenizers
from flax import nnx
from tokenizers import models, normalizers

from vla_jax.actions.bins import Bins
from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core import trees
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export import folder
from vla_jax.policy.export.format import Options
from vla_jax.policy.observation import Observation, Observer
from vla_jax.policy.policy import Policy
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import MARKER, OPENING, PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

# The programs that exports carry stand alone: they import each other as they lie in a folder.
sys.path.append(str(pathlib.Path(folder.__file__).parents[1]))

INSTRUCTIONS = (
    "pick up the red cube",
    "move the small blue star to the left",
    "move the green moon near the yellow cube",
    "pick up the star",
)
BINS = 64
CHUNK = 3  # steps that FAST writes as one
STATE = 5  # dimensions of the robot; models that take a state have room for more


class Built(NamedTuple):
    policy: Policy
    config: VLMConfig
    graph: nnx.GraphDef


def vlm_config(vision=None, decoder=None, **fields):
    towers = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 2, "mlp": 48}
    decoders = {"width": 48, "depth": 2, "mlp": 64, "heads": 4, "key_heads": 2, "head_dim": 8}
    return VLMConfig(
        vision=ViTConfig(**{**towers, **(vision or {})}),
        decoder=DecoderConfig(**{**decoders, **(decoder or {})}),
        **{"dtype": "float32", "remat": "none", **fields},
    )


CONFIGS = {
    "pyramid": vlm_config(
        vision={
            "positions": "sincos2d",
            "stem_strides": (4, 2),
            "stem_widths": (16,),
            "activation": "relu",
        },
        decoder={"activation": "relu"},
    ),
    "multi_query": vlm_config(decoder={"key_heads": 1, "depth": 3}, unroll=3),
    "every_head": vlm_config(vision={"depth": 1}, decoder={"key_heads": 4, "rope_base": 100.0}),
    "gemma2": vlm_config(
        vision={"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)},
        decoder={
            "post_norms": True,
            "attention_softcap": 20.0,
            "final_softcap": 10.0,
            "query_scale": 0.6,
        },
        attention="image_only",
        state=STATE + 2,
    ),
    "openvla": vlm_config(
        vision={
            "width": 24,
            "activation": "gelu_exact",
            "extra_tokens": 5,
            "layer_scale": True,
            "features": "penultimate",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        },
        fused_vision=ViTConfig(
            image_size=32,
            patch_size=8,
            width=32,
            depth=3,
            heads=4,
            mlp=40,
            activation="gelu_exact",
            features="penultimate",
            pool=True,
        ),
        projector="mlp3",
        decoder={
            "activation": "silu",
            "norm_offset": 0.0,
            "norm_epsilon": 1e-5,
            "embedding_scale": False,
            "tied": False,
            "key_heads": 4,
            "head_dim": 12,
        },
        attention="causal",
        images="after_bos",
    ),
    "paligemma2": vlm_config(
        vision={"positions": "sincos2d", "activation": "relu"},
        decoder={
            "post_norms": True,
            "attention_softcap": 10.0,
            "final_softcap": 8.0,
            "query_scale": 0.25,
            "head_dim": 24,  # so that heads * head_dim is not the width
            "window": 4096,
        },
    ),
    "palme": vlm_config(projector="mlp2", shuffle=2, images="inline", state=STATE + 2),
}


def random_params(abstract, seed, norm_offset=1.0, gain=1.2):
    """Draws every parameter, norms and biases too, so large that a wrong one changes tokens."""
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if "norm" in name or "bias" in name or name.endswith(("attention_scale", "mlp_scale")):
            around = 1.0 if name.endswith("_scale") else 0.0
            if name.startswith("decoder/"):
                around = 1 - norm_offset
            return (0.3 * noise + around).astype(leaf.dtype)
        if name in ("decoder/embedding", "decoder/head"):
            return (noise * leaf.shape[1] ** -0.5).astype(leaf.dtype)
        axes = leaf.shape[1:] if "/blocks/" in name else leaf.shape
        fan_in = math.prod(axes[:-1]) if name.endswith("out") else axes[0]
        return (gain * noise * fan_in**-0.5).astype(leaf.dtype)

    return jax.device_put(trees.map_with_name(draw, abstract), jax.devices()[0])


def as_observations(images):
    return [Observation(images=seen, image_mask=np.ones(len(seen), bool)) for seen in images]


def export(built, out, observations, form="torch", **options):
    """Writes a policy, its parameters rounded, and gives the folder its name unchecked."""
    growing = folder.check_place(out)
    kind, chosen = folder.FORMATS[form], Options(**options)
    policy = copy.copy(built.policy)
    policy.params = jax.tree.map(lambda leaf: leaf.astype(chosen.dtype), policy.params)
    folder.write(growing, kind, policy, built.config, chosen, *observations)
    folder.hand_over(growing, out, {})
    return out


def tabletop_tokens(scheme):
    tokenizer = Tokenizer.train(INSTRUCTIONS, 300, BINS)
    chosen = action_tokens.ActionTokensConfig(scheme=scheme)
    tokenizer, ids = action_tokens.choose_ids(chosen, tokenizer, BINS)
    spec = TABLETOP.spec
    actions = np.random.default_rng(1).uniform(spec.low, spec.high, (200, spec.size))
    actions[:, 3] = 0.0125  # A dimension that never moves.
    statistics = Statistics.of(actions.astype(np.float32))
    return tokenizer, {"tabletop": action_tokens.ActionTokens(spec, statistics, ids)}


def fast_tokens():
    """Chunks of the tabletop in FAST, with rows of its own."""
    spec = TABLETOP.spec
    tokenizer = Tokenizer.train([*INSTRUCTIONS, OPENING, MARKER], 300, BINS)
    chunks = np.random.default_rng(1).uniform(spec.low, spec.high, (200, CHUNK, spec.size))
    statistics = Statistics.of(chunks.reshape(-1, spec.size).astype(np.float32))
    scaled = Normalizer(statistics, spec).normalize(chunks)
    fast = Fast.train([scaled], FastConfig(size=300))
    chosen = action_tokens.ActionTokensConfig(scheme="fast", initialization="mean")
    tokenizer, ids = action_tokens.choose_ids(chosen, tokenizer, len(fast.pieces))
    return tokenizer, {"tabletop": FastTokens(spec, statistics, ids, fast)}


def llama_tokenizer():
    """Builds a tokenizer whose ids lie as in Llama 2: bytes, a lone space at 29871."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    letters = sorted({*"".join(INSTRUCTIONS), *map(chr, range(33, 127))} - {" "})
    names += letters + [f"<fill{i}>" for i in range(30144 - len(names) - len(letters))]
    names[29871] = "\u2581"
    model = models.BPE(
        {name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True
    )
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    inner.add_special_tokens([tokenizers.AddedToken("<PAD>", normalized=False, special=True)])
    return Tokenizer(inner)


def build_openvla(config=None, **options):
    """Builds a policy that follows every convention of OpenVLA."""
    spec = ActionSpec(
        names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
        units=("metres per step",) * 3 + ("radians per step",) * 3 + ("0..1",),
        low=(-1.0,) * 6 + (0.0,),
        high=(1.0,) * 7,
        discrete=(False,) * 7,
        frame="base",
        gripper="1 open, 0 closed",
        control_hz=5.0,
    )
    chosen = action_tokens.ActionTokensConfig(rows="openvla")
    tokenizer, ids = action_tokens.choose_ids(chosen, llama_tokenizer(), 256)
    actions = np.random.default_rng(1).uniform(-0.1, 0.3, (200, 7)).astype(np.float32)
    convention = options.pop("convention", "openvla")
    robot = action_tokens.ActionTokens(
        spec, Statistics.of(actions), ids, Bins((256,) * 7, convention)
    )
    return build_policy(
        config or CONFIGS["openvla"],
        prompt="openvla",
        seed=6,
        gain=1.0,
        prefix=120,
        tokens=(tokenizer, {"bridge": robot}),
        **options,
    )


def build_policy(
    config,
    *,
    scheme="overwrite",
    prompt="plain",
    views=("primary",),
    history=1,
    chunk=1,
    seed=0,
    gain=1.2,
    prefix=40,
    tokens=None,
    centre=1.0,
    plan="none",
):
    tokenizer, actions = tokens or tabletop_tokens(scheme)
    (name,) = actions
    states = np.random.default_rng(2).normal(3, 2, (200, STATE))
    images_inside = config.images == "inline"
    encoder = Encoder(
        tokenizer,
        actions,
        PromptsConfig(robot=prompt, plan=plan),
        SequenceConfig(prefix=prefix, suffix=10 * chunk + (0 if plan == "none" else 30), plan=6),
        chunk=chunk,
        states={name: Statistics.of(states)} if config.state else {},
        image_tokens=config.image_tokens * len(views) * history if images_inside else 0,
    )
    model = nnx.eval_shape(lambda: VLM(config, tokenizer.size, nnx.Rngs(0)))
    graph, abstract = nnx.split(model)
    policy = Policy(
        graph,
        random_params(nnx.to_pure_dict(abstract), seed, config.decoder.norm_offset, gain),
        encoder,
        observer=Observer(
            views=views,
            history=history,
            image_size=config.vision.image_size,
            centre=centre,
            state=config.state,
            statistics=encoder.states.get(name),
        ),
    )
    return Built(policy, config, graph)


def build_two_views():
    config = dataclasses.replace(CONFIGS["every_head"], param_dtype="bfloat16", unroll=2)
    return build_policy(
        config, prompt="rt2", views=("front", "wrist"), seed=3, prefix=80, centre=0.8
    )


def build_planner(config=CONFIGS["multi_query"]):
    """A policy that says a plan, and then writes a chunk with FAST: texts of any length."""
    return build_policy(config, tokens=fast_tokens(), chunk=CHUNK, plan="expert", seed=9, prefix=80)


OTHERS = {
    "planner": build_planner,
    "every_head": lambda: build_policy(CONFIGS["every_head"], scheme="extend", seed=4),
    "two_views": build_two_views,
    "gemma2": lambda: build_policy(CONFIGS["gemma2"], views=("a", "b"), history=2, seed=5),
    "paligemma2": lambda: build_policy(
        CONFIGS["paligemma2"], prompt="rt2", views=("a", "b"), history=2, seed=8, prefix=80
    ),
    "openvla": lambda: build_policy(
        CONFIGS["openvla"], prompt="openvla", seed=6, gain=1.0, prefix=80
    ),
    "palme": lambda: build_policy(
        CONFIGS["palme"], prompt="palme", history=2, chunk=2, seed=7, prefix=120
    ),
}


def look_around(built, count=64):
    """Makes observations with all that a policy takes: views, past steps or fewer, a state."""
    rng, observer = np.random.default_rng(5), built.policy.observer
    out = []
    for number in range(count):
        side, steps = (4, 8, 32)[number % 3], 1 + number % observer.history
        noise = rng.integers(0, 256, (len(observer.views), steps, side, side, 3), np.uint8)
        pictures = noise.repeat(32 // side, 2).repeat(32 // side, 3)
        images = dict(zip(observer.views, map(list, pictures), strict=True))
        state = rng.normal(3, 2, STATE) if observer.state else None
        out.append(observer.look(images, state))
    return out, [INSTRUCTIONS[i % len(INSTRUCTIONS)] for i in range(count)]
