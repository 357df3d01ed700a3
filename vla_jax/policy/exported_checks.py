"""What a policy's description has to be, beside well written: of the right types, and sensible.

The part of a stand-alone policy that judges what others may have written or changed; it is copied
into every export, and a run's own policy.json is judged by the same functions. Needs nothing but
Python. Every function raises ValueError, which names the field in one line.
"""

import collections
import itertools
import json
import math
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

# A kind is str, bool, int, float (finite, or whole), [kind] for a list, {name: kind} for an object
# with at least these fields, and (kind,) for what may be null.
SPEC = {
    "names": [str],
    "units": [str],
    "low": [float],
    "high": [float],
    "discrete": [bool],
    "frame": str,
    "gripper": str,
    "control_hz": float,
}
_ROWS = ("q01", "q99", "mean", "std", "low", "high")
STATISTICS = {name: [float] for name in _ROWS} | {"count": int}
_TOWER = {
    **dict.fromkeys(("image_size", "patch_size", "width", "depth", "extra_tokens"), int),
    **dict.fromkeys(("activation", "features"), str),
    "mean": [float],
    "std": [float],
    "stem_strides": [int],
}
_MODEL = {
    **dict.fromkeys(("vocabulary", "state", "shuffle"), int),
    **dict.fromkeys(("attention", "images"), str),
    "vision": _TOWER,
    "fused_vision": (_TOWER,),
    "decoder": {
        **dict.fromkeys(("width", "depth"), int),
        **dict.fromkeys(("rope_base", "norm_offset", "norm_epsilon"), float),
        **dict.fromkeys(("query_scale", "attention_softcap", "final_softcap"), (float,)),
        **dict.fromkeys(("embedding_scale", "post_norms"), bool),
        "activation": str,
    },
}
DESCRIPTION = {
    **dict.fromkeys(("format", "dtype", "robot"), str),
    **dict.fromkeys(("format_version", "tokenizer_size", "chunk", "history"), int),
    "action_spec": SPEC,
    "statistics": STATISTICS,
    "action_token_ids": [int],
    "bins": ({"convention": str, "centres": [[float]]},),
    "plan": ({"opening": [int], "marker": [int]},),
    "bounds": {"low": [float], "high": [float]},
    "prompt": {"template": str, "lower": bool, "image_tokens": int},
    "spelled": {},
    "special_tokens": dict.fromkeys(("pad", "eos", "bos", "unk", "separator"), int),
    "sequence": {"prefix": int, "suffix": int},
    "views": [str],
    "image": {"size": int, "centre": float, "resize": str},
    "state": {"size": int, "statistics": (STATISTICS,)},
    "model": _MODEL,
    "parameters": ({},),
    "parity": {"float32": {}, "rounded": {}},
}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        values = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    expect(isinstance(values, dict), str(path), "an object", type(values).__name__)
    return values


def check(description: Mapping[str, Any], where: str) -> None:
    """Checks the policy.json of an exported folder, whose path is `where`."""
    conform(description, DESCRIPTION, where)
    for name, shape in (description["parameters"] or {}).items():
        conform(shape, [int], where, f"parameters.{name}")
    model, image, state = (description[name] for name in ("model", "image", "state"))
    vocabulary = model["vocabulary"]
    check_space(description["action_spec"], description["statistics"], where)
    size = len(description["action_spec"]["names"])
    check_ids(description["action_token_ids"], vocabulary, where)
    if (bins := description["bins"]) is not None:
        check_centres(bins["centres"], size, bins["convention"], f"{where}, field bins.centres")
        counts = [len(row) for row in bins["centres"]]
        check_count(description["action_token_ids"], max(counts), where)
    _check_ordered(description["bounds"], ("low", "high"), size, f"{where}, field bounds")
    _check_prompt(description["prompt"]["template"], f"{where}, field prompt.template")
    for name, ids in description["spelled"].items():
        field = f"{where}, field spelled[{name}]"
        conform(ids, [int], field)
        inside = name.isdecimal() and all(0 <= token < vocabulary for token in ids)
        expect(inside, field, f"ids below {vocabulary}", _short(ids))
    special = description["special_tokens"]
    for name, token in special.items():
        inside = 0 <= token < description["tokenizer_size"] <= vocabulary
        field = f"{where}, field special_tokens.{name}"
        expect(inside, field, f"an id below {description['tokenizer_size']}", token)
    distinct = len(set(special.values())) == len(special)
    expect(distinct, f"{where}, field special_tokens", "different ids", list(special.values()))
    views = description["views"]
    expect(len(set(views)) == len(views) > 0, f"{where}, field views", "different names", views)
    least = {"chunk": 1, "history": 1, "image.size": 1, "sequence.prefix": 3, "sequence.suffix": 2}
    for name, low in {**least, "prompt.image_tokens": 0}.items():
        value: Any = description
        for part in name.split("."):
            value = value[part]
        expect(value >= low, f"{where}, field {name}", f"at least {low}", value)
    side = model["vision"]["image_size"]
    expect(
        image["size"] == side, f"{where}, field image.size", f"{side}, as the model", image["size"]
    )
    expect(0 < image["centre"] <= 1, f"{where}, field image.centre", "a share", image["centre"])
    known = ("linear", "lanczos")
    expect(image["resize"] in known, f"{where}, field image.resize", known, image["resize"])
    field = f"{where}, field state"
    expect(state["size"] == model["state"], f"{field}.size", model["state"], state["size"])
    if state["statistics"] is not None:
        found = check_statistics(state["statistics"], None, f"{field}.statistics")
        # A model without a state leaves what the robot reports unread.
        if state["size"]:
            expect(found <= state["size"], field, f"at most {state['size']} numbers", found)


def conform(value: Any, kind: Any, where: str, field: str = "") -> None:
    """Checks the type of a value and of what is in it; numbers have to be finite."""
    place = f"{where}, field {field}" if field else where
    if isinstance(kind, tuple):
        if value is not None:
            conform(value, kind[0], where, field)
    elif isinstance(kind, list):
        expect(isinstance(value, list), place, "a list", _short(value))
        for number, item in enumerate(value):
            conform(item, kind[0], where, f"{field}[{number}]")
    elif isinstance(kind, Mapping):
        expect(isinstance(value, Mapping), place, "an object", _short(value))
        for name, inner in kind.items():
            inside = f"{field}.{name}" if field else name
            expect(name in value, f"{where}, field {inside}", "a value", "none")
            conform(value[name], inner, where, inside)
    elif kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        expect(is_number and math.isfinite(value), place, "a finite number", _short(value))
    else:
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        expect(fits, place, f"a value of type {kind.__name__}", _short(value))


def check_space(spec: Mapping[str, Any], statistics: Mapping[str, Any], where: str) -> None:
    """Checks an ActionSpec and the statistics of its actions, as JSON values."""
    conform(spec, SPEC, where, "action_spec")
    place, names = f"{where}, field action_spec", spec["names"]
    expect(len(set(names)) == len(names) > 0, f"{place}.names", "different names", names)
    for name in ("units", "discrete"):
        _check_length(spec[name], len(names), f"{place}.{name}")
    _check_ordered(spec, ("low", "high"), len(names), place)
    check_statistics(statistics, len(names), f"{where}, field statistics")


def check_statistics(statistics: Mapping[str, Any], size: int | None, where: str) -> int:
    """Checks statistics of so many numbers, of any number if None; returns how many they are."""
    conform(statistics, STATISTICS, where)
    size = len(statistics["q01"]) if size is None else size
    for name in _ROWS:
        _check_length(statistics[name], size, f"{where}.{name}")
    for pair in (("q01", "q99"), ("low", "high")):
        _check_ordered(statistics, pair, size, where)
    for number, spread in enumerate(statistics["std"]):
        expect(spread >= 0, f"{where}.std[{number}]", "at least 0", spread)
    expect(statistics["count"] >= 1, f"{where}.count", "at least 1", statistics["count"])
    return size


def check_ids(ids: Sequence[int], vocabulary: int, where: str) -> None:
    """Checks that ids are different rows of an embedding of so many."""
    place = f"{where}, field action_token_ids"
    for number, token in enumerate(ids):
        inside = 0 <= token < vocabulary
        expect(inside, f"{place}[{number}]", f"an id below {vocabulary}", token)
    repeated = [token for token, count in collections.Counter(ids).items() if count > 1]
    expect(not repeated, place, "different ids", f"{repeated[:1]} more than once")


def check_count(ids: Sequence[int], needed: int, where: str) -> None:
    """Checks that there are as many ids as bins, or as FAST has tokens."""
    place = f"{where}, field action_token_ids"
    expect(len(ids) == needed, place, f"{needed} ids, as many as bins", len(ids))


def check_centres(rows: Sequence[Sequence[float]], size: int, convention: str, where: str) -> None:
    """Checks the centres of bins, a row per dimension: ascending in [-1, 1]."""
    known = ("uniform", "openvla", "rt1")
    expect(convention in known, where, f"a convention of {', '.join(known)}", convention)
    _check_length(rows, size, where)
    for number, row in enumerate(rows):
        place = f"{where}[{number}]"
        expect(2 <= len(row) <= 4096, place, "2 to 4096 bins", len(row))
        expect(row[0] >= -1 and row[-1] <= 1, place, "centres in [-1, 1]", f"{row[0]} to {row[-1]}")
        # The last two of OpenVLA's bins have one centre.
        rising = row[:-1] if convention == "openvla" else row
        is_rising = all(a < b for a, b in itertools.pairwise(rising))
        expect(is_rising, place, "ascending centres", "others")


def expect(holds: bool, what: str, expected: object, found: object) -> None:
    """Raises the error that something is not as expected, unless it is."""
    if not holds:
        text = f"{what}: expected {expected}, found {found}"
        raise ValueError(" ".join(text.split()))


def _check_prompt(template: str, where: str) -> None:
    try:
        fields = [
            field for _, field, _, _ in string.Formatter().parse(template) if field is not None
        ]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    expect(fields == ["text"], where, "the place {text} once and no other", repr(template))


def _check_ordered(
    values: Mapping[str, Sequence[float]], names: tuple[str, str], size: int, where: str
) -> None:
    """Checks that of two rows, one number per dimension, the first is nowhere above the second."""
    low, high = names
    for name in names:
        _check_length(values[name], size, f"{where}.{name}")
    for number, (a, b) in enumerate(zip(values[low], values[high], strict=True)):
        expect(a <= b, f"{where}, dimension {number}", f"{low} <= {high}", f"{a} and {b}")


def _check_length(values: Sequence[Any], size: int, where: str) -> None:
    expect(len(values) == size, where, f"{size} entries, one per dimension", len(values))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses an object with a key twice, of which `json` would take the last."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return out
