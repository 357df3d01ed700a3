"""The vision-language model of an exported folder of format `torch`, in PyTorch alone.

Named parameters and functions of them. One observation is decoded at a time, so there is no
padding: what is absent is left out. Axes: w images, p patches, s tokens, d width, h heads, g key
heads, k head size. The leading axis of parameters named `.../blocks/...` counts layers; norms and
attention weights are in float32, everything else in the dtype of the computation.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its customary name)
from exported_policy import IMAGE_TOKEN, STATE_TOKEN, Inputs
from exported_tokens import Grammar

Cache = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values [s, g, k] of every layer
Tensors = dict[str, torch.Tensor]

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_exact": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}


class VLM:
    """Tower(s), projector and decoder; `config` is the model's part of policy.json."""

    def __init__(self, config: dict[str, Any], parameters: Tensors, dtype: torch.dtype):
        self.config, self.decoder, self.dtype = config, config["decoder"], dtype
        self._parameters = {
            name: value.float() if "norm" in name else value.to(dtype)
            for name, value in parameters.items()
        }
        self._embedding = self._parameters["decoder/embedding"]
        self._head = self._parameters.get("decoder/head", self._embedding)
        self.device = self._embedding.device
        stacks = ("vision", "fused_vision", "decoder")
        self._layers = {stack: list(self._unstacked(stack)) for stack in stacks}

    @torch.inference_mode()
    def decode(
        self, inputs: Inputs, grammar: Grammar, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes greedily: see `exported_policy.Model`.

        Raises:
          ValueError: a logit is not finite.
        """
        asked = torch.from_numpy(wanted).to(self.device)
        logits, cache = self.prefill(inputs)
        tokens, seen, state = [], [], grammar.start
        while state:
            if tokens:
                logits = self.step(tokens[-1], cache)
            ids = torch.from_numpy(grammar.allowed(state, len(tokens))).to(self.device)
            best = logits[ids].max(dim=0)
            if not math.isfinite(float(best.values)):
                raise ValueError("the model's logits are not finite")
            tokens.append(ids[best.indices])
            seen.append(logits[asked])
            state = grammar.after(state, int(tokens[-1]))
        return (
            grammar.filled(torch.stack(tokens).cpu().numpy().astype(np.int32)),
            grammar.filled(torch.stack(seen).cpu().numpy()),
        )

    def prefill(self, inputs: Inputs) -> tuple[torch.Tensor, Cache]:
        """Returns logits [v] after images, state and prefix, and the cache."""
        x, images = self._embed_all(inputs)
        everyone = {"prefix_lm": len(x), "causal": 0, "image_only": images}
        index = torch.arange(len(x), device=self.device)
        seen = (index <= index[:, None]) | (index < everyone[self.config["attention"]])
        cache: Cache = []
        return self._decode(x, 0, cache, seen), cache

    def step(self, token: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Feeds one token; returns logits [v] of the next and lengthens the cache."""
        return self._decode(self._embed(token[None]), len(cache[0][0]), cache, None)

    def _embed_all(self, inputs: Inputs) -> tuple[torch.Tensor, int]:
        """Returns the embeddings [s, d] of an observation, and how many stand before the text."""
        there = torch.from_numpy(inputs.images[inputs.image_mask]).to(self.device)
        images = self.encode(there)
        state = self._state(inputs)
        prefix = torch.from_numpy(inputs.prefix).to(self.device).long()
        if self.config["images"] == "inline":
            text = self._embed(prefix.clamp(min=0))
            keep = prefix >= 0
            for place, put in ((IMAGE_TOKEN, images), (STATE_TOKEN, state)):
                found = (prefix == place).nonzero()[: len(put), 0]  # of absent ones, nothing stays
                text[found], keep[found] = put[: len(found)], True
            return text[keep], 0
        text = self._embed(prefix)
        lead = [images, state]
        if self.config["images"] == "after_bos":
            lead, text = [text[:1], *lead], text[1:]
        return torch.cat([*lead, text]), sum(map(len, lead))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = self._embedding[tokens]
        if not self.decoder["embedding_scale"]:
            return rows
        return rows * torch.tensor(self.decoder["width"] ** 0.5, dtype=self.dtype).to(rows.device)

    def _state(self, inputs: Inputs) -> torch.Tensor:
        """Returns the state's token [1, d]; none, [0, d], without a state."""
        if inputs.state is None or inputs.state_mask is None or not inputs.state_mask.any():
            return self._embedding[:0]
        p = self._named("state/")
        known = np.where(inputs.state_mask, inputs.state, 0)
        x = torch.from_numpy(known[None]).to(self.device, self.dtype)
        x = F.gelu(x @ p["up"] + p["up_bias"], approximate="tanh")
        return x @ p["down"] + p["down_bias"]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the image tokens of all images, uint8 [w, y, x, 3] -> [w * p, d]."""
        towers = ["vision"] if self.config["fused_vision"] is None else ["vision", "fused_vision"]
        x = torch.cat([self._tower(tower, images) for tower in towers], dim=-1)
        if (side := self.config["shuffle"]) > 1:
            w, patches, d = x.shape
            rows = math.isqrt(patches) // side
            x = x.reshape(w, rows, side, rows, side, d).transpose(2, 3)
            x = x.reshape(w, rows * rows, side * side * d)
        p = self._named("projector/")
        for i in range(len(p) // 2):
            x = F.gelu(x) if i else x
            x = x @ p[f"kernel{i}"] + p[f"bias{i}"]
        return x.flatten(0, 1)

    def _tower(self, tower: str, images: torch.Tensor) -> torch.Tensor:
        """Returns the features of images, [w, p, d]."""
        config, p = self.config[tower], self._named(f"{tower}/")
        std = torch.tensor([255 * s for s in config["std"]], dtype=self.dtype)
        offset = [m / s for m, s in zip(config["mean"], config["std"], strict=True)]
        x = images.to(self.dtype) / std.to(images.device)
        x = x - torch.tensor(offset, dtype=self.dtype).to(images.device)
        act = _ACTIVATIONS[config["activation"]]
        for i, stride in enumerate(config["stem_strides"] or [config["patch_size"]]):
            x = act(x) if i else x
            w, rows, columns, c = x.shape
            x = x.reshape(w, rows // stride, stride, columns // stride, stride, c)
            x = x.transpose(2, 3).flatten(3) @ p[f"stem{i}"] + p[f"stem{i}_bias"]
        grid, x = x.shape[1], x.flatten(1, 2)
        position = p.get("position")
        if position is None:
            position = torch.from_numpy(sincos2d(grid, config["width"]))
        x = x + position.to(self.device, self.dtype)
        if extra := config["extra_tokens"]:
            x = torch.cat([p["extra"].expand(len(x), -1, -1), x], dim=1)
        for layer in self._layers[tower]:
            x = self._tower_block(x, layer, act)
        x = x[:, extra:]
        if config["features"] == "penultimate":
            return x
        return _layer_norm(x, p["norm_scale"], p["norm_bias"])

    def _tower_block(
        self, x: torch.Tensor, p: Tensors, act: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        y = _layer_norm(x, p["attention_norm_scale"], p["attention_norm_bias"])
        query, key, value = (
            torch.einsum("wpd,dhk->wphk", y, p[name]) + p[f"{name}_bias"]
            for name in ("query", "key", "value")
        )
        y = _attend(query, key, value)
        y = torch.einsum("wphk,hkd->wpd", y, p["out"]) + p["out_bias"]
        x = x + (y * p["attention_scale"] if "attention_scale" in p else y)
        y = _layer_norm(x, p["mlp_norm_scale"], p["mlp_norm_bias"])
        y = act(y @ p["up"] + p["up_bias"]) @ p["down"] + p["down_bias"]
        return x + (y * p["mlp_scale"] if "mlp_scale" in p else y)

    def _decode(
        self, x: torch.Tensor, start: int, cache: Cache, seen: torch.Tensor | None
    ) -> torch.Tensor:
        """Runs x [s, d], the tokens from position `start` on; logits [v] of the last one."""
        config = self.decoder
        act = _ACTIVATIONS[config["activation"]]
        for n, p in enumerate(self._layers["decoder"]):
            y = self._rms_norm(x, p["attention_norm"])
            query, key, value = (
                torch.einsum("sd,dhk->shk", y, p[name]) for name in ("query", "key", "value")
            )
            query, key = (_rope(part, start, config["rope_base"]) for part in (query, key))
            if start:
                key, value = torch.cat([cache[n][0], key]), torch.cat([cache[n][1], value])
            cache[n : n + 1] = [(key, value)]
            y = _attend(query, key, value, seen, config["query_scale"], config["attention_softcap"])
            y = torch.einsum("shk,hkd->sd", y, p["out"])
            x = x + (self._rms_norm(y, p["post_attention_norm"]) if config["post_norms"] else y)
            y = self._rms_norm(x, p["mlp_norm"])
            y = (act(y @ p["gate"]) * (y @ p["up"])) @ p["down"]
            x = x + (self._rms_norm(y, p["post_mlp_norm"]) if config["post_norms"] else y)
        last = self._rms_norm(x[-1], self._parameters["decoder/norm"])
        return _cap((self._head @ last).float(), config["final_softcap"])

    def _rms_norm(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        factor = self.decoder["norm_offset"] + scale
        epsilon = self.decoder["norm_epsilon"]
        return F.rms_norm(x.float(), scale.shape, factor, eps=epsilon).to(x.dtype)

    def _named(self, prefix: str) -> Tensors:
        """Returns the parameters below a name, by the rest of theirs."""
        return {
            name.removeprefix(prefix): value
            for name, value in self._parameters.items()
            if name.startswith(prefix)
        }

    def _unstacked(self, stack: str) -> Iterator[Tensors]:
        """Yields the parameters of layer 0, 1, ... of a stack, by their last name."""
        named = self._named(f"{stack}/blocks/")
        for slices in zip(*named.values(), strict=True):
            yield dict(zip(named, slices, strict=True))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Returns softmax(cap(scale query key')) value; query [... q h k], the others [... s g k]."""
    groups = query.shape[-2] // key.shape[-2]
    key, value = (x.repeat_interleave(groups, dim=-2) for x in (key, value))
    scores = torch.einsum("...qhk,...shk->...hqs", query.float(), key.float())
    scores = _cap(scores * (query.shape[-1] ** -0.5 if scale is None else scale), softcap)
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    return torch.einsum("...hqs,...shk->...qhk", scores.softmax(-1).to(value.dtype), value)


def _cap(x: torch.Tensor, bound: float | None) -> torch.Tensor:
    return x if bound is None else torch.tanh(x / bound) * bound


def _rope(x: torch.Tensor, start: int, base: float) -> torch.Tensor:
    """Rotates the two halves of each head by position; x [s, h, k]."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = torch.arange(start, start + len(x), device=x.device, dtype=torch.float32)
    angle = position[:, None, None] * frequency
    first, second = x.float().chunk(2, dim=-1)
    sin, cos = angle.sin(), angle.cos()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def _layer_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.float(), scale.shape, scale, bias, eps=1e-6).to(x.dtype)


def sincos2d(grid: int, width: int) -> np.ndarray:
    """Fixed position table, float32 [p, d]: sines and cosines of column, then of row."""
    rows, columns = np.mgrid[0:grid, 0:grid] / grid
    frequency = np.pi * 2.0 ** np.linspace(0, 5, width // 4)
    angles = [place.reshape(-1, 1) * frequency for place in (columns, rows)]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)
