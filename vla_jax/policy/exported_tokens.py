"""What the tokens of an exported policy mean: which may follow, and what action they stand for.

The part of a stand-alone policy that knows about tokens; it is copied into every export. Needs
numpy, and tokenizers for actions written by FAST. Axes: n chunk, a action dimensions, t tokens,
v vocabulary, s states, c classes.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tokenizers

# As in training: added tokens that stand for no text, and characters that nobody sees.
_CONTROL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_UNSEEN = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0?.")


def words(text: str) -> str:
    """Returns the words of an instruction; nothing is left of one that is blank."""
    kept = " ".join(text.split()).rstrip("?.")
    seen = (c.isprintable() and not c.isspace() and c not in _UNSEEN for c in kept)
    return kept if any(seen) else ""


class Text:
    """Text -> ids. What is written in an instruction is never a control token or an action.

    Args:
      inner: the tokenizer as it lies in the folder.
      description: the folder's policy.json.
    """

    def __init__(self, inner: tokenizers.Tokenizer, description: Mapping[str, Any]):
        content = json.loads(inner.to_str()) | {"truncation": None, "padding": None}
        for token in content["added_tokens"]:
            name = token["content"]
            is_control = token["special"] or _CONTROL.fullmatch(name)
            token["special"] = bool(name.strip() and is_control)
        self._reader = tokenizers.Tokenizer.from_str(json.dumps(content))
        self._reader.encode_special_tokens = True
        self._spelled = {int(token): ids for token, ids in description.get("spelled", {}).items()}

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without those around a prompt."""
        ids = self._reader.encode(text, add_special_tokens=False).ids if text else []
        return [new for old in ids for new in self._spelled.get(old, (old,))]


_TABLES = {"classes": 1, "step": 2, "need": 1, "start": 0, "length": 0}  # their dimensions


class Grammar:
    """Which token may come next, as a finite automaton: decoding walks it and can leave it nowhere.

    State 0 is the end, behind which only zeros stand.

    Args:
      classes: int [v], the class of each id.
      step: int [s, c], the state after a token of a class, -1 where it may not stand.
      need: int [s], fewest tokens from a state to the end.
      start: the first state.
      length: most tokens.
    """

    def __init__(
        self, classes: np.ndarray, step: np.ndarray, need: np.ndarray, start: int, length: int
    ):
        self.classes, self.step, self.need = classes, step, need
        self.start, self.length = int(start), int(length)
        counts = np.bincount(classes, minlength=step.shape[1])
        self._ids = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> "Grammar":
        """Reads grammar.npz of an exported folder.

        Raises:
          ValueError: it is damaged, or no automaton.
        """
        path = pathlib.Path(folder) / "grammar.npz"
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in _TABLES}
        except Exception as error:  # of zip archives, of numpy, of the file system
            raise ValueError(f"{path}: no grammar ({error})") from error
        numbers = all(table.dtype.kind == "i" for table in arrays.values())
        shapes = {name: table.ndim for name, table in arrays.items()}
        if not numbers or shapes != _TABLES:
            raise ValueError(f"{path}: expected tables of integers, found others")
        classes, step, need = (arrays[name] for name in ("classes", "step", "need"))
        states, kinds = step.shape
        ranges = ((classes, 0, kinds), (step, -1, states), (arrays["start"], 1, states))
        inside = all(((t >= low) & (t < high)).all() for t, low, high in ranges)
        if not inside or len(need) != states or need[0] or (need < 0).any():
            raise ValueError(f"{path}: expected states and classes that there are, found others")
        return cls(classes, step, need, int(arrays["start"]), int(arrays["length"]))

    def check(self, tokens: np.ndarray) -> None:
        """Makes sure that decoded tokens are a text of the grammar.

        Raises:
          ValueError: a token may not stand where it stands, or the text does not end.
        """
        state = self.start
        for place, token in enumerate(tokens.tolist()):
            inside = 0 <= token < len(self.classes) and len(tokens) == self.length
            if not inside or (token not in self.allowed(state, place) if state else token):
                raise ValueError(f"token {place} of an action: expected a legal id, found {token}")
            state = self.after(state, token) if state else 0
        if state and self.need[state]:
            raise ValueError(f"tokens of an action: expected an end, found {tokens.tolist()}")

    def only(self, tokens: np.ndarray) -> "Grammar":
        """Returns the grammar of the same vocabulary that allows these tokens alone, one by one."""
        n, (known, kinds) = len(tokens), np.unique(tokens, return_inverse=True)
        classes = np.full(len(self.classes), len(known))
        classes[known] = np.arange(len(known))
        left = np.arange(n, 0, -1)
        step = np.full((n + 1, len(known) + 1), -1)
        step[left, kinds] = left - 1
        return Grammar(classes, step, np.arange(n + 1), n, self.length)

    def allowed(self, state: int, place: int) -> np.ndarray:
        """Returns the ids that may stand at a place, so that the text can still end; sorted."""
        after = self.step[state]
        fits = (after >= 0) & (self.need[np.maximum(after, 0)] < self.length - place)
        return np.sort(np.concatenate([self._ids[k] for k in np.flatnonzero(fits)]))

    def after(self, state: int, token: int) -> int:
        """Returns the state that a token leads to."""
        return int(self.step[state, self.classes[token]])

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Returns [length, ...]: what stands at each place, and zeros behind the end."""
        return np.concatenate(
            [rows, np.zeros((self.length - len(rows), *rows.shape[1:]), rows.dtype)]
        )


class Actions(Protocol):
    """How action tokens are read."""

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Returns float32 [n, a] in robot units."""
        ...


def open_actions(folder: str | pathlib.Path, description: Mapping[str, Any]) -> Actions:
    """Returns what reads the actions of an exported folder.

    Raises:
      ValueError: the files of FAST are damaged, or its tokens are not as many as the ids.
    """
    return _Fast(folder, description) if description["bins"] is None else _Bins(description)


def check_strings(grammar: Grammar, description: Mapping[str, Any], where: str) -> None:
    """Makes sure that a grammar lets actions stand where they stand, of as many ids as bins.

    Raises:
      ValueError: it is of another vocabulary, or lets other ids stand for an action.
    """
    vocabulary, ids = description["model"]["vocabulary"], description["action_token_ids"]
    if len(grammar.classes) != vocabulary:
        raise ValueError(f"{where}: expected {vocabulary} ids, found {len(grammar.classes)}")
    if grammar.length >= (room := description["sequence"]["suffix"]):
        raise ValueError(f"{where}: expected less than {room} tokens, found {grammar.length}")
    state, place = grammar.start, 0
    for token in _around_plan(description):
        if not state or token not in grammar.allowed(state, place):
            raise ValueError(f"{where}: it does not let the plan of policy.json stand")
        state, place = grammar.after(state, token), place + 1
    if description["bins"] is None:
        if not state or not set(grammar.allowed(state, place).tolist()) <= set(ids):
            raise ValueError(f"{where}: it lets ids stand for actions that policy.json does not")
        return
    for count in _counts(description):
        found = grammar.allowed(state, place) if state else np.zeros(0, int)
        if set(found.tolist()) != set(ids[:count]):
            raise ValueError(
                f"{where}, token {place}: expected the ids of {count} bins in policy.json, found "
                f"{len(found)} ids that are not those"
            )
        state, place = grammar.after(state, int(found[0])), place + 1
    if state:
        raise ValueError(f"{where}: expected an end after {place} tokens, found none")


def _counts(description: Mapping[str, Any]) -> list[int]:
    """Returns how many ids may stand for each number of a chunk."""
    spec, centres = description["action_spec"], description["bins"]["centres"]
    rows = zip(spec["discrete"], spec["low"], spec["high"], centres, strict=True)
    counts = [int(high - low) + 1 if discrete else len(row) for discrete, low, high, row in rows]
    return counts * description["chunk"]


def _around_plan(description: Mapping[str, Any]) -> list[int]:
    """Returns the tokens of a plan without words, none for a policy that does not plan."""
    plan = description["plan"]
    return [] if plan is None else [*plan["opening"], *plan["marker"]]


class _Bins:
    """Every token is one number: the centre of its bin, between the bounds."""

    def __init__(self, description: Mapping[str, Any]):
        self._scale = _Scale(description)
        self._bin_of = {token: k for k, token in enumerate(description["action_token_ids"])}
        self._centres = [np.array(row, np.float32) for row in description["bins"]["centres"]]

    def read(self, tokens: np.ndarray) -> np.ndarray:
        index = np.array([self._bin_of[int(token)] for token in tokens])
        index = index.reshape(-1, len(self._centres))
        bins = [np.minimum(k, len(row) - 1) for k, row in zip(index.T, self._centres, strict=True)]
        x = np.stack([row[k] for k, row in zip(bins, self._centres, strict=True)], axis=1)
        return self._scale.robot_units(x, index + self._scale.lowest)


class _Fast:
    """A chunk is one text: byte pairs of the rounded coefficients of a cosine transform."""

    def __init__(self, folder: str | pathlib.Path, description: Mapping[str, Any]):
        place = pathlib.Path(folder) / "fast"
        try:
            values = json.loads((place / "processor_config.json").read_bytes())
            self._inner = tokenizers.Tokenizer.from_file(str(place / "tokenizer.json"))
            self._fineness, self._first = float(values["scale"]), int(values["min_token"])
        except Exception as error:  # the library raises bare Exception on malformed files
            raise ValueError(f"{place}: no vocabulary of FAST ({error})") from error
        if not 0 < self._fineness < np.inf:
            raise ValueError(f"{place}: expected a scale above 0, found {self._fineness}")
        size, ids = self._inner.get_vocab_size(), description["action_token_ids"]
        if size != len(ids):
            raise ValueError(f"{place}: expected {len(ids)} tokens, one per id, found {size}")
        self._token_of = {token: k for k, token in enumerate(description["action_token_ids"])}
        self._scale = _Scale(description)

    def read(self, tokens: np.ndarray) -> np.ndarray:
        ids = [self._token_of[int(token)] for token in tokens]
        text = self._inner.decode(ids, skip_special_tokens=False)
        codes = np.array([ord(character) for character in text], np.float64)
        rows = (codes.reshape(-1, self._scale.size) + self._first) / self._fineness
        x = np.clip((_cosines(len(rows)).T @ rows).astype(np.float32), -1, 1)
        return self._scale.robot_units(x)


class _Scale:
    """[-1, 1] -> robot units; discrete dimensions are whole numbers."""

    def __init__(self, description: Mapping[str, Any]):
        spec, bounds = description["action_spec"], description["bounds"]
        self.size, self.lowest = len(spec["names"]), np.asarray(spec["low"])
        self._discrete = np.asarray(spec["discrete"])
        self._low, self._high = np.asarray(bounds["low"]), np.asarray(bounds["high"])

    def robot_units(self, x: np.ndarray, exact: np.ndarray | None = None) -> np.ndarray:
        ranged = (self._low + (x + 1) / 2 * (self._high - self._low)).astype(np.float32)
        whole = np.rint(ranged) if exact is None else exact
        return np.where(self._discrete, whole, ranged).astype(np.float32)


def _cosines(n: int) -> np.ndarray:
    """Returns the orthonormal cosine transform of n steps, whose transpose is its inverse."""
    steps = np.arange(n)
    waves = np.cos(np.pi / n * np.outer(steps, steps + 0.5))
    return waves * np.where(steps == 0, 1 / n, 2 / n)[:, None] ** 0.5


def split(
    tokens: np.ndarray, action_ids: Sequence[int], plan: Mapping[str, Sequence[int]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of a plan's words, none without a plan, and those of the action.

    Args:
      tokens: as decoded.
      action_ids: the ids of actions.
      plan: the tokens around a plan, its `opening` and the `marker` behind it.
    """
    of_action = np.isin(tokens, action_ids)
    first = last = 0
    if plan is not None:
        first, last = len(plan["opening"]), int(of_action.argmax()) - len(plan["marker"])
    return tokens[first:last], tokens[of_action]
