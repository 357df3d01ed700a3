"""An exported policy in PyTorch: this one file and the folder it lies in are all a robot needs.

    python torch_policy.py --image camera.png --instruction "pick up the red cube"

Nothing here needs JAX or the package that trained the policy. One observation is decoded at a
time, so there is no padding and no attention mask: images and prefix see each other, every later
token sees all before it. Axes: w views, s tokens, d width, h heads, g key heads, k head size.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import tokenizers
import torch
import torch.nn.functional as F  # noqa: N812  (its customary name)
from PIL import Image
from safetensors.torch import load_file

FORMAT_VERSION = 1
_DEAD = 1e-8  # q99 - q01 below this is a dimension that never moves
Cache = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values [s, g, k] of every layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """What a policy wants done.

    Attributes:
      values: float32 [n, a] in robot units, n steps to be executed in order.
      tokens: int32 [n * a], as decoded.
      terminate: True if the first step ends the episode.
      milliseconds: time of the stages `prepare` and `decode`.
    """

    values: np.ndarray
    tokens: np.ndarray
    terminate: bool
    milliseconds: Mapping[str, float]


class TorchPolicy:
    """Images and an instruction in, an action in robot units out; made by `load`."""

    def __init__(self, description: dict[str, Any], tokenizer: tokenizers.Tokenizer, model: "VLM"):
        self.description, self.model, self._tokenizer = description, model, tokenizer
        self.names = tuple(description["action_spec"]["names"])
        self.units = tuple(description["action_spec"]["units"])
        self.views = tuple(description["views"])
        self._legal = self._legal_tokens().to(model.device)

    @classmethod
    def load(
        cls, folder: str | pathlib.Path, device: str = "cpu", dtype: Any = torch.float32
    ) -> "TorchPolicy":
        """Reads an exported folder; `dtype` is that of the computation.

        Raises:
          ValueError: the folder is no exported policy, or is of another format version.
        """
        folder = pathlib.Path(folder)
        if not (folder / "policy.json").is_file():
            raise ValueError(f"{folder} is no exported policy: it has no policy.json")
        description = json.loads((folder / "policy.json").read_text())
        if description["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{folder}: expected format {FORMAT_VERSION}; use its torch_policy.py")
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        parameters = load_file(folder / "model.safetensors", device=device)
        return cls(description, tokenizer, VLM(description["model"], parameters, dtype))

    @torch.inference_mode()
    def act(self, images: Mapping[str, np.ndarray], instruction: str) -> Action:
        """Decides on one observation: view name -> uint8 RGB [y, x, 3] of any size, and words.

        Raises:
          ValueError: a view is missing or unknown, an image is not RGB uint8, the instruction is
            empty or too long.
        """
        start = time.perf_counter()
        pixels = torch.from_numpy(self._stack(images)).to(self.model.device)
        prefix = torch.tensor(self.prefix(instruction), device=self.model.device)
        prepared = time.perf_counter()
        logits, cache = self.model.prefill(pixels, prefix)
        tokens: list[torch.Tensor] = []
        for legal in self._legal:
            logits = self.model.step(tokens[-1], cache) if tokens else logits
            tokens.append(logits.masked_fill(~legal, -math.inf).argmax())
        ids = torch.stack(tokens).cpu().numpy().astype(np.int32)
        values = self._values(ids)
        done = time.perf_counter()
        stages = {"prepare": 1e3 * (prepared - start), "decode": 1e3 * (done - prepared)}
        terminate = dict(zip(self.names, values[0], strict=True)).get("terminate", 0) > 0.5
        return Action(values=values, tokens=ids, terminate=bool(terminate), milliseconds=stages)

    def prefix(self, instruction: str) -> list[int]:
        """Returns the ids of `<bos> prompt newline`."""
        if not (words := " ".join(instruction.split()).rstrip("?.")):
            raise ValueError(f"instruction {instruction!r}: expected at least one word")
        text = self.description["prompt"]["template"].format(text=words)
        special, room = self.description["special_tokens"], self.description["sequence"]["prefix"]
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        ids = [special["bos"], *ids, special["separator"]]
        if len(ids) > room:
            raise ValueError(f"prompt {text!r}: expected at most {room} tokens, found {len(ids)}")
        return ids

    def _stack(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Checks, resizes and stacks the views: uint8 [w, y, x, 3]."""
        if set(images) != set(self.views):
            raise ValueError(f"images: expected the views {self.views}, found {tuple(images)}")
        size, out = self.description["image"]["size"], []
        for view in self.views:
            image = images[view]
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                found = f"{image.dtype} {list(image.shape)}"
                raise ValueError(f"image {view}: expected RGB uint8 [y, x, 3], found {found}")
            out.append(_resize(image, size, self.description["image"]["resize"]))
        return np.stack(out)

    def _legal_tokens(self) -> torch.Tensor:
        """Which ids may stand at each position, bool [n * a, v]: discrete ones have few."""
        spec, ids = self.description["action_spec"], self.description["action_token_ids"]
        legal = torch.zeros(len(self.names), self.model.vocabulary, dtype=torch.bool)
        ranges = zip(spec["discrete"], spec["low"], spec["high"], strict=True)
        for row, (discrete, low, high) in zip(legal, ranges, strict=True):
            row[ids[: int(high - low) + 1] if discrete else ids] = True
        return legal.repeat(self.description["chunk"], 1)

    def _values(self, tokens: np.ndarray) -> np.ndarray:
        """Turns ids into robot units, float32 [n, a]: bin centres between the quantiles."""
        spec, statistics = self.description["action_spec"], self.description["statistics"]
        ids = self.description["action_token_ids"]
        bin_of = {token: k for k, token in enumerate(ids)}
        index = np.array([bin_of[int(token)] for token in tokens]).reshape(-1, len(self.names))
        x = ((index + 0.5) / len(ids) * 2 - 1).astype(np.float32)
        fixed = np.array([unit == "0..1" for unit in spec["units"]])
        low = np.where(fixed, spec["low"], statistics["q01"])
        high = np.where(fixed, spec["high"], statistics["q99"])
        ranged = np.where(high - low > _DEAD, low + (x + 1) / 2 * (high - low), low)
        exact = index + np.asarray(spec["low"])
        return np.where(spec["discrete"], exact, ranged).astype(np.float32)


class VLM:
    """SigLIP tower, projector and Gemma decoder, as functions of named parameters.

    The leading axis of parameters named `.../blocks/...` counts layers; norms are in float32.
    """

    def __init__(self, config: dict[str, Any], parameters: dict[str, torch.Tensor], dtype: Any):
        self.vision, self.decoder, self.dtype = config["vision"], config["decoder"], dtype
        self._parameters = {
            name: value if "norm" in name else value.to(dtype) for name, value in parameters.items()
        }
        self._embedding = self._parameters["decoder/embedding"]
        self.vocabulary, self.device = len(self._embedding), self._embedding.device

    def prefill(self, images: torch.Tensor, prefix: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        """Returns logits [v] after images (uint8 [w, y, x, 3]) and prefix, and the cache."""
        cache: Cache = []
        return self._decode(torch.cat([self._encode(images), self._embed(prefix)]), 0, cache), cache

    def step(self, token: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Feeds one token; returns logits [v] of the next and lengthens the cache."""
        return self._decode(self._embed(token[None]), len(cache[0][0]), cache)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        scale = torch.tensor(self.decoder["width"] ** 0.5, dtype=self.dtype, device=self.device)
        return self._embedding[tokens] * scale

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the image tokens of all views, [w * p, d]."""
        top, x = self._parameters, images.to(self.dtype) / 127.5 - 1
        strides = self.vision["stem_strides"] or [self.vision["patch_size"]]
        for i, stride in enumerate(strides):
            x = x if i == 0 else _activate(x, self.vision["activation"])
            w, rows, columns, c = x.shape
            x = x.reshape(w, rows // stride, stride, columns // stride, stride, c)
            x = x.transpose(2, 3).flatten(3) @ top[f"vision/stem{i}"] + top[f"vision/stem{i}_bias"]
        grid, x = x.shape[1], x.flatten(1, 2)
        position = top.get("vision/position")
        if position is None:
            position = torch.from_numpy(_sincos2d(grid, self.vision["width"]))
        x = x + position.to(self.device, self.dtype)
        for p in self._layers("vision"):
            x = self._vision_block(x, p)
        x = _layer_norm(x, top["vision/norm_scale"], top["vision/norm_bias"])
        return (x @ top["projector/kernel0"] + top["projector/bias0"]).flatten(0, 1)

    def _vision_block(self, x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        y = _layer_norm(x, p["attention_norm_scale"], p["attention_norm_bias"])
        query, key, value = (
            torch.einsum("wpd,dhk->wphk", y, p[name]) + p[f"{name}_bias"]
            for name in ("query", "key", "value")
        )
        y = _attend(query, key, value)
        x = x + torch.einsum("wphk,hkd->wpd", y, p["out"]) + p["out_bias"]
        y = _layer_norm(x, p["mlp_norm_scale"], p["mlp_norm_bias"])
        y = _activate(y @ p["up"] + p["up_bias"], self.vision["activation"])
        return x + y @ p["down"] + p["down_bias"]

    def _decode(self, x: torch.Tensor, start: int, cache: Cache) -> torch.Tensor:
        """Runs x [s, d], the tokens from position `start` on; logits [v] of the last one."""
        for n, p in enumerate(self._layers("decoder")):
            y = _rms_norm(x, p["attention_norm"])
            query, key, value = (
                torch.einsum("sd,dhk->shk", y, p[name]) for name in ("query", "key", "value")
            )
            query, key = (_rope(part, start, self.decoder["rope_base"]) for part in (query, key))
            if start:
                key, value = torch.cat([cache[n][0], key]), torch.cat([cache[n][1], value])
            cache[n : n + 1] = [(key, value)]
            x = x + torch.einsum("shk,hkd->sd", _attend(query, key, value), p["out"])
            y = _rms_norm(x, p["mlp_norm"])
            gate = _activate(y @ p["gate"], self.decoder["activation"])
            x = x + (gate * (y @ p["up"])) @ p["down"]
        last = _rms_norm(x[-1], self._parameters["decoder/norm"])
        return (self._embedding @ last).float()

    def _layers(self, stack: str) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the parameters of layer 0, 1, ... of a stack, by their last name."""
        prefix = f"{stack}/blocks/"
        named = {k: v for k, v in self._parameters.items() if k.startswith(prefix)}
        for slices in zip(*named.values(), strict=True):
            yield dict(zip((name.removeprefix(prefix) for name in named), slices, strict=True))


def _resize(image: np.ndarray, size: int, method: str) -> np.ndarray:
    """Resizes to a square as in training: Lanczos, or box averages by 2, 4, 8 and then linear."""
    if image.shape[:2] == (size, size):
        return image
    if method == "lanczos":
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
    height, width = image.shape[:2]
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(height, width) >= f * size)
    if factor > 1:
        reduced = (width // factor, height // factor)
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Returns softmax(query key' / sqrt(k)) value; query [... q h k], the others [... s g k]."""
    groups = query.shape[-2] // key.shape[-2]
    key, value = (x.repeat_interleave(groups, dim=-2) for x in (key, value))
    scores = torch.einsum("...qhk,...shk->...hqs", query.float(), key.float())
    weights = (scores / math.sqrt(query.shape[-1])).softmax(-1).to(value.dtype)
    return torch.einsum("...hqs,...shk->...qhk", weights, value)


def _rope(x: torch.Tensor, start: int, base: float) -> torch.Tensor:
    """Rotates the two halves of each head by position; x [s, h, k]."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = torch.arange(start, start + len(x), device=x.device, dtype=torch.float32)
    angle = position[:, None, None] * frequency
    first, second = x.float().chunk(2, dim=-1)
    sin, cos = angle.sin(), angle.cos()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def _rms_norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x.float(), scale.shape, 1 + scale, eps=1e-6).to(x.dtype)


def _layer_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.float(), scale.shape, scale, bias, eps=1e-6).to(x.dtype)


def _activate(x: torch.Tensor, name: str) -> torch.Tensor:
    return F.gelu(x, approximate="tanh") if name == "gelu" else F.relu(x)


def _sincos2d(grid: int, width: int) -> np.ndarray:
    """Fixed position table, float32 [p, d]: sines and cosines of column, then of row."""
    rows, columns = np.mgrid[0:grid, 0:grid] / grid
    frequency = np.pi * 2.0 ** np.linspace(0, 5, width // 4)
    angles = [place.reshape(-1, 1) * frequency for place in (columns, rows)]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    """Prints the action for one observation."""
    parser = argparse.ArgumentParser(description="Run the exported policy in this folder.")
    parser.add_argument("--folder", default=pathlib.Path(__file__).parent, type=pathlib.Path)
    parser.add_argument("--image", action="append", required=True, help="FILE or VIEW=FILE")
    parser.add_argument("--instruction", required=True)
    options = parser.parse_args(arguments)
    try:
        policy = TorchPolicy.load(options.folder)
        files = [item.rpartition("=") for item in options.image]
        images = {v or policy.views[0]: np.asarray(Image.open(file)) for v, _, file in files}
        action = policy.act(images, options.instruction)
    except (ValueError, OSError) as error:
        sys.exit(f"torch_policy: {error}")
    rows = zip(policy.names, action.values[0], policy.units, strict=True)
    lines = [f"{name:<10} {value:+.5f} {unit}" for name, value, unit in rows]
    sys.stdout.write("\n".join([*lines, f"tokens {' '.join(map(str, action.tokens))}", ""]))


if __name__ == "__main__":
    main()
