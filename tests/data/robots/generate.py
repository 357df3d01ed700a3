"""Small datasets in the real RLDS schemas of `schemas/`: random numbers, real encoding by TFDS.

A schema file is `{"features": {flat name: feature}, ...}`, the flat name being that of the
`tf.train.Example` (`steps/observation/image`; without `steps/` it belongs to the episode). A
feature has `shape` and `dtype` as in the dataset's `features.json`, and where they apply

  image: true for an encoded image (`format`, jpeg unless it says png).
  text: true for a string of the class Text, or for integers that are UTF-8 codes.
  encoding: `zlib` or `bytes`, of a Tensor that is not stored as a plain list.
  range: [low, high], numbers or one per element; else -1.5..1.5, of integers 0..3.
  choices: the values that occur, e.g. [-1, 0, 1] of a gripper command.
"""

import dataclasses
import functools
import json
import pathlib

import cv2
import numpy as np

from vla_jax.data.records import import_tfds, write_dataset
from vla_jax.data.robots.robot import Columns

# Robots whose data come in another's schema.
SHARED = {
    "bridge_dataset": "bridge_orig",
    "language_table_sim": "language_table",
    **dict.fromkeys(
        ("libero_spatial_no_noops", "libero_object_no_noops", "libero_goal_no_noops"), "libero"
    ),
    "libero_10_no_noops": "libero",
}
SCHEMAS = pathlib.Path(__file__).with_name("schemas")
LENGTHS = (5, 1, 8, 2)
INSTRUCTIONS = ("pick up the can", "öffne die Schublade", "push the red star to the corner")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """What was drawn: `values` of every feature, [steps, ...] or [episodes, ...]."""

    schema: dict
    lengths: tuple[int, ...]
    values: dict

    @property
    def episode(self):
        """int [steps]"""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def columns(self):
        """Every number of the dataset, as the index hands it to an adapter."""
        return self.columns_of(name for name, value in self.values.items() if value.dtype != object)

    def columns_of(self, names):
        """The same of some features only."""
        return Columns(arrays={name: self.per_step(name) for name in names}, episode=self.episode)

    def per_step(self, name):
        """A feature [steps, ...]; one of the episode is repeated."""
        value = self.values[name]
        return value if name.startswith("steps/") else value[self.episode]

    def episodes(self):
        """Yields the columns of each episode on its own."""
        for k in range(len(self.lengths)):
            mine = self.episode == k
            arrays = {name: values[mine] for name, values in self.columns.arrays.items()}
            yield Columns(arrays=arrays, episode=np.zeros(mine.sum(), int))

    def examples(self):
        """Yields the episodes as TFDS encodes them: nested dictionaries, steps as a list."""
        ends = np.cumsum(self.lengths)
        for k, (end, length) in enumerate(zip(ends, self.lengths, strict=True)):
            whole = {n: v[k] for n, v in self.values.items() if not n.startswith("steps/")}
            steps = [
                nested({n[6:]: v[i] for n, v in self.values.items() if n.startswith("steps/")})
                for i in range(end - length, end)
            ]
            yield {**nested(whole), "steps": steps}


def read(name):
    """The features of a dataset's schema file: flat name -> feature."""
    path = SCHEMAS / f"{SHARED.get(name, name)}.json"
    return json.loads(path.read_text())["features"]


def draw(name, *, lengths=LENGTHS, seed=0, **given):
    """Draws a dataset.

    Args:
      name: of the dataset.
      lengths: steps per episode.
      seed: of the numbers.
      given: flat name (`/` may be written `__`) -> array to use instead of drawn numbers.
    """
    schema = read(name)
    rng = np.random.default_rng(seed)
    given = {key.replace("__", "/"): value for key, value in given.items()}
    assert set(given) <= set(schema), f"{name} has no {set(given) - set(schema)}"
    values = {
        key: given[key] if key in given else _draw_feature(key, schema[key], lengths, rng)
        for key in schema
    }
    return Generated(schema=schema, lengths=tuple(lengths), values=values)


def write(generated, directory, name):
    """Writes what was drawn as the TFDS version directory `directory`, two episodes a shard."""
    directory.mkdir(parents=True, exist_ok=True)
    write_dataset(
        directory,
        name=name,
        features=features_of(generated.schema),
        splits={"train": (generated.examples(), len(generated.lengths))},
        examples_per_shard=2,
        version="0.1.0",
        description=f"numbers in the schema of {name}",
    )
    return directory


def features_of(schema):
    """The TFDS features of a schema."""
    tfds = import_tfds()
    steps = {name[6:]: f for name, f in schema.items() if name.startswith("steps/")}
    whole = {name: f for name, f in schema.items() if not name.startswith("steps/")}
    tree = _features_dict(tfds, nested(whole, leaf=True))
    tree["steps"] = tfds.features.Dataset(_features_dict(tfds, nested(steps, leaf=True)))
    return tfds.features.FeaturesDict(tree)


def nested(flat, *, leaf=False):
    """Makes `a/b` a dictionary in a dictionary. A leaf of a schema is told by its `shape`."""
    tree = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        at = functools.reduce(lambda node, folder: node.setdefault(folder, {}), folders, tree)
        at[last] = _Leaf(value) if leaf else value
    return tree


class _Leaf(dict):
    """One feature of a schema, to tell it from a dictionary of features."""


def _features_dict(tfds, tree):
    return {
        name: _feature(tfds, node) if isinstance(node, _Leaf) else _features_dict(tfds, node)
        for name, node in tree.items()
    }


def _feature(tfds, feature):
    shape, dtype = tuple(feature["shape"]), feature["dtype"]
    kind = np.str_ if dtype == "string" else np.dtype(dtype)
    if feature.get("image"):
        encoding = None if dtype == "float32" else _encoding(feature)
        return tfds.features.Image(shape=shape, dtype=kind, encoding_format=encoding)
    if dtype == "string" and feature.get("text"):
        return tfds.features.Text()
    return tfds.features.Tensor(shape=shape, dtype=kind, encoding=feature.get("encoding", "none"))


def _draw_feature(name, feature, lengths, rng):
    total = sum(lengths)
    if not name.startswith("steps/"):
        return _draw_values(feature, len(lengths), rng)
    flags = {"is_first": 0, "is_last": -1, "is_terminal": -1}
    if name[6:] in flags:
        parts = [np.eye(1, n, n - 1 if flags[name[6:]] else 0, dtype=bool)[0] for n in lengths]
        return np.concatenate(parts)
    if feature["dtype"] == "string" or feature.get("text"):
        return np.repeat(_draw_values(feature, len(lengths), rng), lengths, axis=0)
    return _draw_values(feature, total, rng)


def _draw_values(feature, count, rng):
    shape, dtype = (count, *feature["shape"]), feature["dtype"]
    if feature.get("image"):
        return _draw_images(feature, count, rng)
    if feature.get("text") or dtype == "string":
        return _draw_texts(feature, count, rng)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    kind = np.dtype(dtype)
    if "choices" in feature:
        return rng.choice(feature["choices"], shape).astype(kind)
    low, high = feature.get("range", [0, 3] if kind.kind in "iu" else [-1.5, 1.5])
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if kind.kind in "iu":
        return rng.integers(low, high, shape, endpoint=True).astype(kind)
    return rng.uniform(low, high, shape).astype(kind)


def _draw_texts(feature, count, rng):
    texts = [INSTRUCTIONS[k] for k in rng.integers(len(INSTRUCTIONS), size=count)]
    if feature["dtype"] == "string":
        out = np.empty((count, *feature["shape"]), object)
        for k, text in enumerate(texts):
            out[k] = text
        return out
    codes = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    (room,) = feature["shape"]
    return np.stack([np.pad(c, (0, room - len(c))) for c in codes]).astype(feature["dtype"])


def _draw_images(feature, count, rng):
    """Draws flat pictures, each of its own colour, as encoded bytes; float depth as an array."""
    out = np.empty(count, object)
    for k in range(count):
        colour = rng.integers(256, size=feature["shape"][-1])
        picture = np.full(feature["shape"], colour, feature["dtype"])
        if feature["dtype"] != "float32":  # which TFDS packs into a PNG in its own way
            picture = cv2.imencode(f".{_encoding(feature)}", picture)[1].tobytes()
        out[k] = picture
    return out


def _encoding(feature):
    colour = feature["shape"][-1] == 3 and feature["dtype"] == "uint8"
    return feature.get("format", "jpeg" if colour else "png")
