"""A TFDS version directory written by hand, so that every part of it can be wrong."""

import json

import numpy as np

KINDS = {"image": bytes, "text": bytes, "float32": float}


def feature(kind, shape=()):
    """One leaf of features.json; `kind` is `image`, `text` or a dtype."""
    sizes = {"dimensions": [str(size) for size in shape]} if shape else {}
    if kind == "image":
        return {"image": {"shape": sizes, "dtype": "uint8", "encodingFormat": "jpeg"}}
    if kind == "text":
        return {"text": {}}
    return {"tensor": {"shape": sizes, "dtype": kind, "encoding": "none"}}


def schema(flat):
    """features.json of flat names; what begins with `steps/` lies in the steps."""
    top = {"featuresDict": {"features": {}}}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        node = top
        for depth, folder in enumerate(folders):
            children = node["featuresDict"]["features"]
            inner = {"featuresDict": {"features": {}}}
            is_steps = depth == 0 and folder == "steps"
            new = {"sequence": {"feature": inner, "length": "-1"}} if is_steps else inner
            children.setdefault(folder, new)
            node = children[folder]["sequence"]["feature"] if is_steps else children[folder]
        node["featuresDict"]["features"][last] = leaf
    return top


STANDARD = {
    "steps/image": feature("image", (4, 4, 3)),
    "steps/x": feature("float32", (2,)),
    "steps/language": feature("text"),
}


def values(n, **others):
    """The features of `STANDARD` for n steps, for `tensorflow.example`."""
    return {
        "steps/image": (bytes, [b"picture %d of %d" % (t, n) for t in range(n)]),
        "steps/x": (float, np.arange(2.0 * n).tolist()),
        "steps/language": (bytes, [b"task of %d" % n] * n),
    } | others


def write(tensorflow, directory, episodes, *, flat=STANDARD, shards=1, split="train", info=True):
    """Writes episodes, each the arguments of `tensorflow.example`, in turn into the shards."""
    directory.mkdir(parents=True, exist_ok=True)
    records = [tensorflow.example(**episode) for episode in episodes]
    parts = [records[n::shards] for n in range(shards)]
    for n, part in enumerate(parts):
        tensorflow.write(directory / f"d-{split}.tfrecord-{n:05d}-of-{shards:05d}", part)
    (directory / "features.json").write_text(json.dumps(schema(flat)))
    if info:
        path = directory / "dataset_info.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        entry = {"name": split, "shardLengths": [str(len(part)) for part in parts]}
        known = {"name": "d", "version": "1.0.0", "splits": [*known.get("splits", ()), entry]}
        path.write_text(json.dumps(known))
    return directory
