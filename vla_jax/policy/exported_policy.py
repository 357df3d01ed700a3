"""An exported folder, read: observations -> the model's inputs, and its tokens -> an action.

The part of a stand-alone policy that does not depend on what computes the model; it is copied into
every export beside the program that does. Needs numpy, tokenizers, and OpenCV or Pillow for images
that are not of the model's size. Axes: w images, n chunk, a action dimensions, t tokens.
"""

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import exported_checks
import exported_images
import exported_manifest
import exported_tokens
import numpy as np
import tokenizers
from exported_tokens import Grammar

FORMAT_VERSION = 6
INCOMPLETE = "INCOMPLETE"  # a file of this name: the export was refused, or did not finish
IMAGE_TOKEN, STATE_TOKEN = -1, -2  # prefix ids in whose place the model puts images and state
_PLACES = {"<image>": IMAGE_TOKEN, "<state>": STATE_TOKEN}
_DEAD = 1e-8  # q99 - q01 below this is a dimension that never moves


@dataclasses.dataclass(frozen=True)
class Action:
    """What a policy wants done.

    Attributes:
      values: float32 [n, a] in robot units, n steps to be executed in order.
      tokens: int32 [t], as decoded: a plan, if there is one, and the action, padded with 0.
      terminate: True if the first step ends the episode.
      plan: what the policy said it was about to do; empty for one that does not plan.
      milliseconds: time of the stages `prepare` and `decode`.
    """

    values: np.ndarray
    tokens: np.ndarray
    terminate: bool
    plan: str
    milliseconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One observation and its prompt, as a model takes them.

    Attributes:
      images: uint8 [w, y, x, 3], all views of the oldest step first; 0 where absent.
      image_mask: bool [w], False where a view is absent.
      prefix: int32 [t], `<bos> prompt separator`, no padding.
      state: float32 [s] in [-1, 1], padded to the model's size; None for a model without.
      state_mask: bool [s], False beyond the robot's dimensions; None for a model without.
    """

    images: np.ndarray
    image_mask: np.ndarray
    prefix: np.ndarray
    state: np.ndarray | None = None
    state_mask: np.ndarray | None = None


class Model(Protocol):
    """What computes: one prefill, then greedy steps."""

    def decode(
        self, inputs: Inputs, grammar: Grammar, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes tokens, each the likeliest of those that may stand there.

        Returns:
          Tokens int32 [t], and float32 [t, v], the logits of the ids `wanted` at each of them, both
          as long as the grammar's longest text and 0 behind the end.
        """
        ...


class ExportedPolicy:
    """Images and an instruction in, an action in robot units out.

    Args:
      folder: what an export wrote.
      description: its policy.json, as `read` returned it.
      model: computes.

    Raises:
      ValueError: the tokenizer, the grammar or the description do not belong together.
    """

    def __init__(self, folder: pathlib.Path, description: dict[str, Any], model: Model):
        self.description, self.model = description, model
        self._tokenizer = _tokenizer(folder / "tokenizer.json", description)
        self._text = exported_tokens.Text(self._tokenizer, self.description)
        spec, bounds = self.description["action_spec"], self.description["bounds"]
        self.names, self.units = tuple(spec["names"]), tuple(spec["units"])
        self.views = tuple(self.description["views"])
        self.history = int(self.description["history"])
        self.grammar = Grammar.load(folder)
        exported_tokens.check_strings(self.grammar, description, str(folder / "grammar.npz"))
        self._actions = exported_tokens.open_actions(folder, self.description)
        self._limits = [np.where(spec["discrete"], spec[k], bounds[k]) for k in ("low", "high")]

    def act(
        self,
        images: Mapping[str, "np.ndarray | Sequence[np.ndarray]"],
        instruction: str,
        state: "np.ndarray | None" = None,
    ) -> Action:
        """Decides on one observation.

        Args:
          images: view name -> uint8 RGB [y, x, 3] of any size; for a model that looks back, the
            last of them, oldest first (fewer at the beginning of an episode).
          instruction: what to do, in words.
          state: proprioception in robot units, for a model that takes it.

        Raises:
          ValueError: a view is missing or unknown, an image is not RGB uint8, there are more steps
            than the model takes, the state is missing or of another size, the instruction is no
            text, empty or too long; or what was decoded is no action within the robot's bounds.
        """
        start = time.perf_counter()
        inputs = self.look(images, instruction, state)
        prepared = time.perf_counter()
        tokens, _ = self.model.decode(inputs, self.grammar, np.zeros(0, np.int64))
        self.grammar.check(tokens)
        values, plan = self.read(tokens)
        self._check(values)
        done = time.perf_counter()
        stages = {"prepare": 1e3 * (prepared - start), "decode": 1e3 * (done - prepared)}
        terminate = dict(zip(self.names, values[0], strict=True)).get("terminate", 0) > 0.5
        return Action(
            values=values,
            tokens=tokens,
            terminate=bool(terminate),
            plan=plan,
            milliseconds=stages,
        )

    def _check(self, values: np.ndarray) -> None:
        """Refuses an action that is not finite or not within the bounds of its dimensions."""
        low, high = self._limits
        slack = 1e-6 * (1 + np.abs(low) + np.abs(high))  # of float32
        inside = np.isfinite(values) & (values >= low - slack) & (values <= high + slack)
        if not inside.all():
            step, k = np.argwhere(~inside)[0]
            raise ValueError(
                f"action, step {step}, {self.names[k]}: expected {low[k]:g} to {high[k]:g}, found "
                f"{values[step, k]}"
            )

    def look(
        self,
        images: Mapping[str, "np.ndarray | Sequence[np.ndarray]"],
        instruction: str,
        state: "np.ndarray | None" = None,
    ) -> Inputs:
        """Checks, crops, resizes and stacks what `act` is given, as in training."""
        if not isinstance(images, Mapping) or set(images) != set(self.views):
            found = tuple(images) if isinstance(images, Mapping) else type(images).__name__
            raise ValueError(f"images: expected the views {self.views}, found {found}")
        size, resize, share = (
            self.description["image"][key] for key in ("size", "resize", "centre")
        )
        slots = self.history * len(self.views)
        pixels, mask = np.zeros((slots, size, size, 3), np.uint8), np.zeros(slots, bool)
        for number, view in enumerate(self.views):
            given = images[view]
            is_one = not isinstance(given, Sequence) and np.ndim(given) != 4
            steps = [given] if is_one else list(given)
            if not 1 <= len(steps) <= self.history:
                raise ValueError(
                    f"images of {view}: expected 1 to {self.history} steps, found {len(steps)}"
                )
            for step, image in enumerate(steps, start=self.history - len(steps)):
                slot = step * len(self.views) + number
                middle = exported_images.centre(exported_images.checked(image, view), share)
                pixels[slot] = exported_images.resize(middle, size, resize)
                mask[slot] = True
        return Inputs(pixels, mask, self.prefix(instruction), *self._state(state))

    def prefix(self, instruction: str) -> np.ndarray:
        """Returns int32 [t]: `<bos> prompt separator`, with places for images and state in it."""
        if not isinstance(instruction, str):
            raise ValueError(f"instruction: expected a text, found {type(instruction).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in instruction):
            raise ValueError(f"instruction {instruction!r}: expected Unicode, found a surrogate")
        words = exported_tokens.words(instruction)
        if not words:
            raise ValueError(f"instruction {instruction!r}: expected at least one word")
        prompt, special = self.description["prompt"], self.description["special_tokens"]
        said = words.lower() if prompt["lower"] else words
        text, count = prompt["template"].format(text=said), {IMAGE_TOKEN: prompt["image_tokens"]}
        # Only the template has places for images and state; in an instruction they are text.
        form = re.split("(<image>|<state>)", prompt["template"])
        parts = form if prompt["image_tokens"] else [text]
        ids = [special["bos"]]
        for part in parts:
            if prompt["image_tokens"] and part in _PLACES:
                ids += [_PLACES[part]] * count.get(_PLACES[part], 1)
            elif prompt["image_tokens"]:
                ids += self._text.encode(part.format(text=said).strip())
            else:
                ids += self._text.encode(part)
        ids.append(special["separator"])
        if len(ids) > (room := self.description["sequence"]["prefix"]):
            raise ValueError(f"prompt {text!r}: expected at most {room} tokens, found {len(ids)}")
        return np.array(ids, np.int32)

    def read(self, tokens: np.ndarray) -> tuple[np.ndarray, str]:
        """Turns decoded tokens into robot units, float32 [n, a], and the plan before them."""
        ids, plan = self.description["action_token_ids"], self.description["plan"]
        words, of_action = exported_tokens.split(tokens, ids, plan)
        return self._actions.read(of_action), self._tokenizer.decode(words.tolist())

    def _state(self, state: "np.ndarray | None") -> tuple["np.ndarray | None", "np.ndarray | None"]:
        """Returns the state as the model takes it, and which of it the robot has."""
        size, statistics = (self.description["state"][key] for key in ("size", "statistics"))
        if not size:
            return None, None
        values, known = np.zeros(size, np.float32), np.zeros(size, bool)
        if statistics is None:
            return values, known
        low, high = (np.asarray(statistics[key]) for key in ("q01", "q99"))
        try:
            given = np.asarray(np.nan if state is None else state, np.float32)
        except (ValueError, TypeError):
            given = np.asarray(np.nan)
        if given.shape != low.shape or not np.isfinite(given).all():
            found = "none" if state is None else f"shape {np.shape(given)}: {state}"
            raise ValueError(
                f"state: expected {len(low)} finite numbers in robot units, found {found}"
            )
        alive = high - low > _DEAD
        scaled = 2 * (given - low) / np.where(alive, high - low, 1) - 1
        values[: len(low)] = np.where(alive, np.clip(scaled, -1, 1), 0)
        known[: len(low)] = True
        return values, known


def read(
    folder: str | os.PathLike[str], *, unchecked: bool = False, verify: bool = True
) -> dict[str, Any]:
    """Reads policy.json.

    Args:
      folder: what an export wrote.
      unchecked: whether a folder marked incomplete will do.
      verify: whether all files are compared with manifest.json, which takes a second or so per GB
        of each file of weights.

    Raises:
      ValueError: the folder is no exported policy, is incomplete or of another format version, a
        file is not as it was written, or the description makes no sense.
    """
    folder = pathlib.Path(folder).expanduser()
    path = folder / "policy.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no exported policy: it has no policy.json")
    description = exported_checks.read_json(path)
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{folder}: expected format {FORMAT_VERSION}; use the program in it")
    if not unchecked and (folder / INCOMPLETE).exists():
        raise ValueError(f"{folder} is marked incomplete: {_reason(folder / INCOMPLETE)}")
    if verify:
        exported_manifest.verify(folder, ("policy.json", "tokenizer.json", "grammar.npz"))
    exported_checks.check(description, str(path))
    return description


def _reason(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        return str(error.strerror)


def _tokenizer(path: pathlib.Path, description: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Reads the tokenizer.

    Raises:
      ValueError: it is damaged, or not that of training.
    """
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on malformed files
        raise ValueError(f"{path}: no tokenizer ({error})") from error
    ids, size = description["tokenizer_size"], inner.get_vocab_size()
    extra = description["format"] == "hf_paligemma"  # which adds <image>
    if not ids <= size <= ids + extra:
        raise ValueError(f"{path}: expected {ids} ids, as in training, found {size}")
    return inner
