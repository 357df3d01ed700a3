"""RT-1 and RT-1-X as their JAX code saves them: names below `params/` and `batch_stats/`.

Source: open_x_embodiment:models/. The released folder holds one file of msgpack, `checkpoint`, that
Flax reads and writes.
"""

import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx, serialization

from vla_jax.core import files, trees
from vla_jax.core.errors import UserError, listed
from vla_jax.models.pretrained import filling, storage, table
from vla_jax.models.pretrained.table import Entry, Family, Piece, Row
from vla_jax.models.rt1 import RT1
from vla_jax.models.rt1_config import RT1Config

FILE = "checkpoint"
_IMAGES = "image_tokenizer"
_NETWORK = f"{_IMAGES}/EfficientNetWithFilm_0"
_MATRIX = "c d -> 1 1 c d"  # a convolution over one pixel

_ATTENTION = "TransformerBlock_{}/MultiHeadDotProductAttention_0"
_BLOCKS = (
    *(
        row
        for number, name in enumerate(("attention", "mlp"))
        for row in (
            Row(
                f"TransformerBlock_{{}}/LayerNorm_{number}/scale",
                "d -> d",
                f"blocks/{name}_norm_scale",
            ),
            Row(
                f"TransformerBlock_{{}}/LayerNorm_{number}/bias",
                "d -> d",
                f"blocks/{name}_norm_bias",
            ),
        )
    ),
    *(
        row
        for name in ("query", "key", "value")
        for row in (
            Row(f"{_ATTENTION}/{name}/kernel", "d h k -> d h k", f"blocks/{name}"),
            Row(f"{_ATTENTION}/{name}/bias", "h k -> h k", f"blocks/{name}_bias"),
        )
    ),
    Row(f"{_ATTENTION}/out/kernel", "h k d -> h k d", "blocks/out"),
    Row(f"{_ATTENTION}/out/bias", "d -> d", "blocks/out_bias"),
)
_FEED_FORWARD = {
    "swiglu": (
        Row("TransformerBlock_{}/Dense_0/kernel", "d m -> d m", "blocks/gate"),
        Row("TransformerBlock_{}/Dense_1/kernel", "d m -> d m", "blocks/up"),
        Row("TransformerBlock_{}/Dense_2/kernel", "m d -> m d", "blocks/down"),
    ),
    "linear": (Row("TransformerBlock_{}/Dense_0/kernel", "m d -> m d", "blocks/down"),),
}
_TRANSFORMER = (
    Row("Dense_0/kernel", "m d -> m d", "input"),
    Row("Dense_0/bias", "d -> d", "input_bias"),
    Row("Dense_1/kernel", "p d -> p d", "position"),
    Row("Dense_1/bias", "d -> d", "position_bias"),
    Row("Dense_2/kernel", "v d -> d v", "head"),
    Row("Dense_2/bias", "v -> v", "head_bias"),
)
_ACTIONS = (
    Row("Dense_0/kernel", "v d -> v d", "action_embedding"),
    Row("Dense_0/bias", "d -> d", "action_bias"),
)
_LEARNER = (
    Row("LayerNorm_0/scale", "d -> d", "norm_scale"),
    Row("LayerNorm_0/bias", "d -> d", "norm_bias"),
    Row("token_masking/Dense_0/kernel", "d m -> d m", "hidden"),
    Row("token_masking/Dense_0/bias", "m -> m", "hidden_bias"),
    Row("token_masking/Dense_1/kernel", "m e -> m e", "select"),
    Row("token_masking/Dense_1/bias", "e -> e", "select_bias"),
)


def _film(theirs: str, ours: str) -> tuple[Row, ...]:
    return tuple(
        row
        for number, name in enumerate(("shift", "scale"))
        for row in (
            Row(f"{theirs}/Dense_{number}/kernel", "c d -> c d", f"{ours}/{name}"),
            Row(f"{theirs}/Dense_{number}/bias", "d -> d", f"{ours}/{name}_bias"),
        )
    )


def _norms(config: RT1Config) -> Iterable[tuple[str, str]]:
    """Yields every BatchNorm, theirs and ours."""
    yield "Stem_0/batch_normalization", "stem_norm"
    for number, block in enumerate(config.vision.blocks):
        names = ("expand", "depthwise", "project")[block.expansion == 1 :]
        for place, name in enumerate(names):
            theirs = f"MBConvBlock_{number}/batch_normalization_{place}"
            yield theirs, f"block{number}/{name}_norm"
    yield "Head_0/batch_normalization", "top_norm"


def _network(config: RT1Config) -> Iterable[Row]:
    yield Row("Stem_0/conv2d/kernel", "i j c d -> i j c d", "stem")
    for number in range(len(config.vision.blocks)):
        theirs, ours = f"MBConvBlock_{number}", f"block{number}"
        squeeze = f"{theirs}/SqueezeExcite_0"
        depthwise = f"{theirs}/depthwise_conv2d/depthwise_kernel"
        yield Row(f"{theirs}/expand_conv2d_0/kernel", _MATRIX, f"{ours}/expand")
        yield Row(depthwise, "i j m -> i j m 1", f"{ours}/depthwise")
        yield Row(f"{squeeze}/reduce_conv2d_0/kernel", _MATRIX, f"{ours}/squeeze")
        yield Row(f"{squeeze}/reduce_conv2d_0/bias", "d -> d", f"{ours}/squeeze_bias")
        yield Row(f"{squeeze}/expand_conv2d_0/kernel", _MATRIX, f"{ours}/excite")
        yield Row(f"{squeeze}/expand_conv2d_0/bias", "d -> d", f"{ours}/excite_bias")
        yield Row(f"{theirs}/project_conv2d_0/kernel", _MATRIX, f"{ours}/project")
        yield from _film(f"FilmConditioning_{number}", f"film{number}")
    yield Row("Head_0/conv2d/kernel", _MATRIX, "top")
    for theirs, ours in _norms(config):
        yield Row(f"{theirs}/scale", "d -> d", f"{ours}/scale")
        yield Row(f"{theirs}/bias", "d -> d", f"{ours}/bias")


def _statistics(config: RT1Config) -> Iterable[Row]:
    for theirs, ours in _norms(config):
        yield Row(f"{theirs}/mean", "d -> d", f"{ours}/mean")
        yield Row(f"{theirs}/var", "d -> d", f"{ours}/variance")


def family(config: RT1Config) -> Family:
    """Returns the key table of a model."""
    images = (Row("Conv_0/kernel", _MATRIX, "reduce"), *_film("FilmConditioning_0", "film"))
    learner = f"params/{_IMAGES}/TokenLearnerModuleV11_0/"
    transformer = _TRANSFORMER + _BLOCKS + _FEED_FORWARD[config.feed_forward]
    return Family(
        "RT-1",
        (
            Piece((f"params/{_NETWORK}/",), "vision/", tuple(_network(config))),
            Piece((f"batch_stats/{_NETWORK}/",), "vision/", tuple(_statistics(config))),
            Piece((f"params/{_IMAGES}/",), "", images),
            Piece((learner,), "token_learner/", _LEARNER),
            Piece(("params/",), "", _ACTIONS),
            Piece(("params/Transformer_0/",), "", transformer),
        ),
    )


def entries(config: RT1Config) -> list[Entry]:
    """Returns one entry per tensor of a model's checkpoint."""
    return _entries(config, _leaves(config))


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a checkpoint whole: parameters and statistics by the authors' names.

    Args:
      path: the released folder, its file `checkpoint`, or an npz of the same names; local or on
        object storage.

    Raises:
      UserError: it cannot be read.
    """
    path = os.fspath(path)
    system, root = storage.system(path)
    if storage.reading(path, lambda: system.isdir(root)):
        root, path = f"{root}/{FILE}", f"{path}/{FILE}"
    data = storage.reading(path, lambda: system.cat_file(root))
    if path.endswith(".npz"):
        return storage.reading(path, lambda: dict(np.load(io.BytesIO(data), allow_pickle=False)))
    held = storage.reading(path, lambda: serialization.msgpack_restore(data))
    if not isinstance(held, dict) or not held.keys() >= {"params", "batch_stats"}:
        found = listed(sorted(map(str, held))) if isinstance(held, dict) else type(held).__name__
        raise UserError(path, expected="params and batch_stats", found=found)
    wanted = {name: held[name] for name in ("params", "batch_stats")}
    return trees.named_leaves(wanted)


def unpack(config: RT1Config, tensors: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    """Returns parameters and statistics of a model by our names, each in the model's dtype.

    Args:
      config: the model.
      tensors: by the authors' names.
      path: where they are from, for messages.

    Raises:
      UserError: they are not those of the model, or not finite.
    """
    leaves = _leaves(config)
    spelled = {entry.name: entry for entry in _entries(config, leaves)}
    missing, unexpected = (sorted(a - b) for a, b in _both_ways(set(spelled), set(tensors)))
    misshaped = [
        f"{name} (expected {entry.shape}, found {tensors[name].shape})"
        for name, entry in spelled.items()
        if name in tensors and tensors[name].shape != entry.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshaped": misshaped}
    if lines := [f"{len(n)} {kind}: {listed(n)}" for kind, n in kinds.items() if n]:
        raise UserError(f"checkpoint {path} (RT-1) does not fit: {'; '.join(lines)}")
    out = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    for name, entry in spelled.items():
        if not filling.is_finite(tensors[name]):
            raise UserError(f"checkpoint {path}: {name}", expected="finite numbers", found="others")
        for place, part in zip(entry.places, entry.unpack(tensors[name]), strict=True):
            out[place.leaf][... if place.index is None else place.index] = part
    return out


def pack(config: RT1Config, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns what `unpack` was given: tensors by the authors' names, float32.

    Args:
      config: the model.
      leaves: its parameters and statistics by our names.
    """
    out = {}
    for entry in entries(config):
        parts = [
            np.asarray(leaves[place.leaf], np.float32)[... if place.index is None else place.index]
            for place in entry.places
        ]
        out[entry.name] = np.ascontiguousarray(entry.pack(parts))
    return out


def write(folder: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the authors' file `checkpoint` into a folder that is there."""
    data = serialization.msgpack_serialize(trees.nest(tensors))
    files.write_whole(os.path.join(folder, FILE), data)


def _leaves(config: RT1Config) -> dict[str, Any]:
    model = nnx.eval_shape(lambda: RT1(config, nnx.Rngs(0)))
    return trees.named_leaves(nnx.to_pure_dict(nnx.state(model)))


def _entries(config: RT1Config, leaves: Mapping[str, Any]) -> list[Entry]:
    return table.entries(family(config), {name: leaf.shape for name, leaf in leaves.items()})


def _both_ways(a: set[str], b: set[str]) -> tuple[tuple[set[str], set[str]], ...]:
    return (a, b), (b, a)
