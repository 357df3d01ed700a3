"""The VLM again, in plain numpy and float64: one example, no padding, no cache, loops over layers.

A sequence is built by appending what is there, so positions are 0, 1, 2, ... and nothing has to be
masked but the future.
"""

import math

import numpy as np

from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN

_erf = np.vectorize(math.erf)


def logits(config, params, images, prefix, suffix, state=None):
    """Returns the logits that predict each suffix token.

    Args:
      config: VLMConfig.
      params: nested dict of numpy arrays.
      images: uint8 [w, y, x, 3], only those that are there.
      prefix: token ids, with IMAGE_TOKEN and STATE_TOKEN where images are inline.
      suffix: token ids.
      state: [s], or None where there is none.
    """
    rows = list(image_tokens(config, params, images)) if len(images) else []
    states = [] if state is None else [state_token(params["state"], state)]
    table, scale = params["decoder"]["embedding"], 1.0
    if config.decoder.embedding_scale:
        scale = math.sqrt(config.decoder.width)
    sequence, kinds = [], []

    def add(parts, kind):
        sequence.extend(parts)
        kinds.extend([kind] * len(parts))

    words = list(prefix)
    if config.images == "after_bos":
        add([table[words.pop(0)] * scale], "image")
    if config.images != "inline":
        add(rows + states, "image")
    for token in words:
        if token == IMAGE_TOKEN:
            add([rows.pop(0)] if rows else [], "prefix")
        elif token == STATE_TOKEN:
            add(states, "prefix")
        else:
            add([table[token] * scale], "prefix")
    ahead = len(sequence)
    add([table[token] * scale for token in suffix[:-1]], "suffix")
    open_kinds = {"prefix_lm": ("image", "prefix"), "image_only": ("image",), "causal": ()}
    everyone = np.isin(kinds, open_kinds[config.attention])
    index = np.arange(len(sequence))
    sees = (index[None] <= index[:, None]) | everyone[None]
    x = decoder(config.decoder, params["decoder"], np.stack(sequence), sees)[ahead - 1 :]
    head = table if config.decoder.tied else params["decoder"]["head"]
    return cap(x @ head.T, config.decoder.final_softcap)


def image_tokens(config, params, images):
    """Returns [p, d], of all images."""
    towers = [(config.vision, params["vision"])]
    if config.fused_vision:
        towers.append((config.fused_vision, params["fused_vision"]))
    out = []
    for image in images:
        x = np.concatenate([tower(*each, image) for each in towers], axis=1)
        grid = config.vision.grid
        side = config.shuffle
        squares = [
            np.concatenate(
                [x[(y + i) * grid + column + j] for i in range(side) for j in range(side)]
            )
            for y in range(0, grid, side)
            for column in range(0, grid, side)
        ]
        y = np.stack(squares)
        depth = {"linear": 1, "mlp2": 2, "mlp3": 3}[config.projector]
        for n in range(depth):
            y = activate(y, "gelu_exact") if n else y
            y = y @ params["projector"][f"kernel{n}"] + params["projector"][f"bias{n}"]
        out.append(y)
    return np.concatenate(out)


def state_token(p, state):
    """Returns [d]."""
    return activate(state @ p["up"] + p["up_bias"], "gelu") @ p["down"] + p["down_bias"]


def tower(config, p, image):
    """Returns features [p, d] of one image, with a one-stage stem and learned positions."""
    pixels = (image / 255 - np.array(config.mean)) / np.array(config.std)
    size = config.patch_size
    x = np.stack(
        [
            pixels[y : y + size, column : column + size].reshape(-1) @ p["stem0"]
            for y in range(0, config.image_size, size)
            for column in range(0, config.image_size, size)
        ]
    )
    x = x + p["stem0_bias"] + p["position"]
    extra = config.extra_tokens
    x = np.concatenate([p["extra"], x]) if extra else x
    used = config.depth - (config.features == "penultimate")
    for n in range(used):
        q = {name: leaf[n] for name, leaf in p["blocks"].items()}
        y = layer_norm(x, q["attention_norm_scale"], q["attention_norm_bias"])
        y = multi_head(y, y, q)
        x = x + y * (q["attention_scale"] if config.layer_scale else 1)
        y = layer_norm(x, q["mlp_norm_scale"], q["mlp_norm_bias"])
        y = activate(y @ q["up"] + q["up_bias"], config.activation) @ q["down"] + q["down_bias"]
        x = x + y * (q["mlp_scale"] if config.layer_scale else 1)
    x = x[extra:]
    return x if config.features == "penultimate" else layer_norm(x, p["norm_scale"], p["norm_bias"])


def pool(config, p, x):
    """Returns SigLIP's pooled vector [d] of features [p, d]."""
    y = multi_head(p["probe"][None], x, p)[0]
    z = layer_norm(y, p["norm_scale"], p["norm_bias"])
    z = activate(z @ p["up"] + p["up_bias"], config.activation) @ p["down"] + p["down_bias"]
    return y + z


def multi_head(asking, asked, p):
    """Returns attention with biases, everyone sees everything."""
    query, key, value = (
        np.einsum("sd,dhk->hsk", x, p[name]) + p[f"{name}_bias"][:, None]
        for x, name in ((asking, "query"), (asked, "key"), (asked, "value"))
    )
    weights = softmax(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
    return np.einsum("hsk,hkd->sd", weights @ value, p["out"]) + p["out_bias"]


def decoder(config, p, x, sees):
    """Returns normalised hidden states [s, d]."""
    angle = np.arange(len(x))[:, None] * config.rope_base ** (
        -np.arange(config.head_dim // 2) / (config.head_dim // 2)
    )

    def rotate(y):
        first, second = np.split(y, 2, axis=-1)
        sin, cos = np.sin(angle), np.cos(angle)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def norm(y, scale):
        rms = np.sqrt((y * y).mean(-1, keepdims=True) + config.norm_epsilon)
        return y / rms * (config.norm_offset + scale)

    scale = config.query_scale or 1 / math.sqrt(config.head_dim)
    for n in range(config.depth):
        q = {name: leaf[n] for name, leaf in p["blocks"].items()}
        y = norm(x, q["attention_norm"])
        query, key, value = (np.einsum("sd,dhk->hsk", y, q[k]) for k in ("query", "key", "value"))
        key, value = (np.repeat(z, config.heads // config.key_heads, axis=0) for z in (key, value))
        scores = rotate(query) @ rotate(key).transpose(0, 2, 1) * scale
        scores = np.where(sees, cap(scores, config.attention_softcap), -np.inf)
        y = np.einsum("hsk,hkd->sd", softmax(scores) @ value, q["out"])
        x = x + (norm(y, q["post_attention_norm"]) if config.post_norms else y)
        y = norm(x, q["mlp_norm"])
        y = (activate(y @ q["gate"], config.activation) * (y @ q["up"])) @ q["down"]
        x = x + (norm(y, q["post_mlp_norm"]) if config.post_norms else y)
    return norm(x, p["norm"])


def softmax(x):
    """Returns the softmax over the last axis."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def cap(x, bound):
    """Returns bound tanh(x / bound); x where None."""
    return x if bound is None else bound * np.tanh(x / bound)


def layer_norm(x, scale, bias):
    """Returns the LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def activate(x, name):
    """Returns the activation by its name."""
    if name == "gelu":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "gelu_exact":
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return x / (1 + np.exp(-x)) if name == "silu" else np.maximum(x, 0)
