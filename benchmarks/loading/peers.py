"""Other loaders on the two datasets, where they can be imported: Octo's, OpenVLA's, plain dlimp.

Each is called as its project's training script calls it, with the numbers of threads that it asks
for. The first process of Octo and of OpenVLA computes the statistics of the datasets, which they
keep: the median over processes leaves it out.
"""

import dataclasses
import importlib
import importlib.util
import itertools
import pathlib
import sys
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np

from loading import measure
from loading.datasets import DATASETS, FRACTAL, LIBERO, MARKED
from loading.measure import BATCH, CHUNK, SIDE, Measured

Marks = list[tuple[str, Hashable]]

_COUNTED = 10  # batches whose episodes are counted
_IMAGENET = ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))  # mean, standard deviation, 0..255
_AUGMENT = {
    "random_resized_crop": {"scale": [0.8, 1.0], "ratio": [0.9, 1.1]},
    "random_brightness": [0.1],
    "random_contrast": [0.9, 1.1],
    "random_saturation": [0.9, 1.1],
    "random_hue": [0.05],
}
_AUGMENT["augment_order"] = list(_AUGMENT)


class Peer(NamedTuple):
    """Another loader.

    Attributes:
      open: opens it for a data folder and a shuffle buffer of some frames.
      marks: returns dataset and episode of every example of a batch.
      modules: that it needs.
      before: is called before they are imported.
    """

    open: Callable[[pathlib.Path, int], Iterator[Any]]
    marks: Callable[[Any], Marks]
    modules: tuple[str, ...]
    before: Callable[[], None] = lambda: None


def run(peer: Peer, root: pathlib.Path, buffer: int, *, seconds: float) -> Measured:
    """Measures a loader; afterwards it counts the episodes in its batches."""
    peer.before()
    for module in (*peer.modules, "tensorflow_datasets"):
        importlib.import_module(module)
    meter = measure.Meter()
    opened: list[Iterator[Any]] = []

    def open_batches() -> Iterator[Any]:
        opened.append(peer.open(root, buffer))
        return opened[0]

    measured = measure.run(
        open_batches, lambda batch: len(peer.marks(batch)), meter, seconds=seconds, warm_up=5
    )
    marks = itertools.chain.from_iterable(map(peer.marks, opened[0]))
    batches = [list(itertools.islice(marks, BATCH)) for _ in range(_COUNTED)]
    lengths = {dataset.name: dataset.lengths() for dataset in DATASETS}
    return dataclasses.replace(measured, distinct=measure.distinct(batches, lengths))


def octo(*, augment: bool) -> Peer:
    """Octo's `make_interleaved_dataset`, as its pretraining configuration calls it."""
    modules = ("octo.data.oxe", "octo.data.dataset")

    def open_batches(root: pathlib.Path, buffer: int) -> Iterator[Any]:
        _read_local_files(root)
        oxe, dataset = (sys.modules[name] for name in modules)
        fractal = oxe.make_oxe_dataset_kwargs(FRACTAL.name, str(root))
        # Octo has no LIBERO; its actions need no other form.
        libero = {
            "name": LIBERO.name,
            "data_dir": str(root),
            "image_obs_keys": {"primary": "image"},
            "language_key": "language_instruction",
            "action_normalization_mask": [True] * 6 + [False],
        }
        frames: dict[str, Any] = {"resize_size": {"primary": (SIDE, SIDE)}}
        if augment:
            frames["image_augment_kwargs"] = {"primary": _AUGMENT}
        return dataset.make_interleaved_dataset(
            [fractal, libero],
            [1.0, 1.0],
            train=True,
            shuffle_buffer_size=buffer,
            traj_transform_kwargs={"window_size": 1, "action_horizon": CHUNK},
            frame_transform_kwargs={**frames, "num_parallel_calls": 200},
            batch_size=BATCH,
            traj_transform_threads=48,
            traj_read_threads=48,
        ).iterator()

    def marks(batch: Any) -> Marks:
        values = batch["action"].reshape(len(batch["action"]), -1)[:, MARKED]
        return _pairs(batch["dataset_name"], values)

    return Peer(open_batches, marks, modules)


def openvla() -> Peer:
    """OpenVLA's `RLDSDataset` under a PyTorch DataLoader, with its augmentation.

    Tokenizer and normalisation of pixels are stand-ins, cheaper than the originals.
    """
    modules = (
        "prismatic.vla.datasets.datasets",
        "prismatic.models.backbones.llm.prompting",
        "prismatic.util.data_utils",
        "prismatic.vla.action_tokenizer",
        "torch",
    )

    def open_batches(root: pathlib.Path, buffer: int) -> Iterator[Any]:
        _read_local_files(root)
        datasets, prompting, collate, actions, torch = (sys.modules[name] for name in modules)
        torch.set_num_threads(1)  # it has small tensors; more threads burn time in waiting
        # It multiplies weights by sizes, and wants a weight of 1 somewhere.
        sizes = {each.name: each.lengths().sum() for each in DATASETS}
        weights = [(name, sizes[FRACTAL.name] / size) for name, size in sizes.items()]
        datasets.OXE_NAMED_MIXTURES["benchmark"] = weights
        tokenizer = _Tokenizer()

        class Marking(datasets.RLDSBatchTransform):
            def __call__(self, rlds_batch: dict[str, Any]) -> dict[str, Any]:
                mark = rlds_batch["action"][0][MARKED]
                name = (rlds_batch["dataset_name"], mark)
                return super().__call__(rlds_batch) | {"dataset_name": name}

        rows = datasets.RLDSDataset(
            root,
            "benchmark",
            Marking(
                actions.ActionTokenizer(tokenizer),
                tokenizer,
                image_transform=_pixels,
                prompt_builder_fn=prompting.PurePromptBuilder,
            ),
            resize_resolution=(SIDE, SIDE),
            shuffle_buffer_size=buffer,
            image_aug=True,
        )
        padded = collate.PaddedCollatorForActionPrediction(2048, 0)
        loader = torch.utils.data.DataLoader(rows, batch_size=32, collate_fn=padded, num_workers=0)
        return iter(loader)

    def marks(batch: Any) -> Marks:
        names, values = zip(*batch["dataset_names"], strict=True)
        return _pairs(names, np.array(values))

    return Peer(open_batches, marks, modules, _stand_in_for_what_is_missing)


def dlimp() -> Peer:
    """The least that dlimp and tf.data can do: encoded frames shuffled, then decoded and resized.

    Nothing is augmented, and the resize is bilinear as ours.
    """
    modules = ("dlimp", "tensorflow")

    def open_batches(root: pathlib.Path, buffer: int) -> Iterator[Any]:
        dl, tf = (sys.modules[name] for name in modules)
        tfds = sys.modules["tensorflow_datasets"]

        def cut(name: str) -> Callable[[Any], Any]:
            def frames(episode: Any) -> Any:
                action = episode["action"]
                if name == FRACTAL.name:
                    parts = ("world_vector", "rotation_delta", "gripper_closedness_action")
                    action = tf.concat([action[part] for part in parts], axis=1)
                length = tf.shape(action)[0]
                steps = tf.range(length)[:, None] + tf.range(CHUNK)[None]
                return {
                    "image": episode["observation"]["image"],
                    "action": tf.gather(action, tf.minimum(steps, length - 1)),
                    "dataset_name": tf.repeat(name, length),
                }

            return frames

        def decode(frame: Any) -> Any:
            image = tf.cast(tf.io.decode_jpeg(frame["image"], channels=3), tf.float32)
            image = tf.round(tf.image.resize(image, (SIDE, SIDE)))
            return {**frame, "image": tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)}

        streams = []
        for dataset in DATASETS:
            builder = tfds.builder_from_directory(str(dataset.directory(root)))
            episodes = dl.DLataset.from_rlds(builder, split="train").repeat()
            streams.append(episodes.traj_map(cut(dataset.name)).flatten())
        mixed = dl.DLataset.sample_from_datasets(streams, [0.5, 0.5]).shuffle(buffer)
        return mixed.frame_map(decode).batch(BATCH).with_ram_budget(1).iterator()

    def marks(batch: Any) -> Marks:
        return _pairs(batch["dataset_name"], batch["action"][:, 0, MARKED])

    return Peer(open_batches, marks, modules)


def find(folders: dict[str, str | None]) -> dict[str, str]:
    """Puts source folders on the path and returns the peers that cannot run, with the reason."""
    sys.path[:0] = [folder for folder in folders.values() if folder is not None]
    options = {"octo": "octo", "prismatic": "openvla", "dlimp": "dlimp"}
    missing = {}
    for name, peer in PEERS.items():
        for package in {module.partition(".")[0] for module in peer.modules} | {"dlimp"}:
            if importlib.util.find_spec(package) is None:
                option = options.get(package)
                where = f"; --{option}=FOLDER names its sources" if option else ""
                missing[name] = f"{package} is not installed{where}"
    return missing


def _pairs(names: Any, values: np.ndarray) -> Marks:
    texts = (name.decode() if isinstance(name, bytes) else str(name) for name in names)
    # Normalising keeps them apart; where quantiles clip a few at the ends, those few are one.
    return list(zip(texts, np.round(values.astype(float), 5).tolist(), strict=True))


def _read_local_files(root: pathlib.Path) -> None:
    """Lets `tfds.builder` open our datasets: of those it knows it asks a server about instead."""
    tfds = sys.modules["tensorflow_datasets"]
    directories = {dataset.name: str(dataset.directory(root)) for dataset in DATASETS}
    vars(tfds)["builder"] = lambda name, data_dir: tfds.builder_from_directory(directories[name])


def _stand_in_for_what_is_missing() -> None:
    """Lets OpenVLA's data code be imported without its models and their dependencies."""
    root = importlib.util.find_spec("prismatic")
    assert root is not None
    assert root.submodule_search_locations is not None
    top = pathlib.Path(next(iter(root.submodule_search_locations)))
    # These packages import every model when they are imported themselves.
    for name in ("", "models", "models/backbones", "models/backbones/llm", "util", "vla"):
        _module("prismatic" + f"/{name}".rstrip("/"), __path__=[str(top / name)])
    _module("prismatic/vla/datasets", __path__=[str(top / "vla/datasets")])
    _module("prismatic/models/backbones/vision", ImageTransform=object)
    if importlib.util.find_spec("transformers") is None:
        _module("transformers", PreTrainedTokenizerBase=object)
    if importlib.util.find_spec("accelerate") is None:
        state = types.SimpleNamespace(is_main_process=True)
        _module("accelerate", PartialState=lambda: state)
    if importlib.util.find_spec("tensorflow_graphics") is None:  # for DROID's rotations only
        _module("tensorflow_graphics", __path__=[])
        _module("tensorflow_graphics/geometry", __path__=[])
        _module("tensorflow_graphics/geometry/transformation")


def _module(path: str, **contents: Any) -> None:
    name = path.replace("/", ".")
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


class _Tokenizer:
    """Has the interface that OpenVLA's batch transform uses, and a vocabulary of Llama's size."""

    vocab_size = 32_000

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def __call__(self, text: str, *, add_special_tokens: bool) -> types.SimpleNamespace:
        words = [len(word) for word in text.split()]
        return types.SimpleNamespace(input_ids=[1, *words] if add_special_tokens else words)


def _pixels(image: Any) -> Any:
    """Normalises an image twice, for DINOv2 and for SigLIP, as OpenVLA's vision backbone wants."""
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32)
    mean, deviation = (np.array(values, np.float32)[:, None, None] for values in _IMAGENET)
    twice = np.concatenate([(pixels - mean) / deviation, pixels / 127.5 - 1])
    return sys.modules["torch"].from_numpy(twice)


PEERS = {
    "Octo, crop and colour": octo(augment=True),
    "Octo, none": octo(augment=False),
    "OpenVLA, crop and colour": openvla(),
    "tf.data with dlimp, none": dlimp(),
}
