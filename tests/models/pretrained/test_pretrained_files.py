"""Files that are no checkpoints, or no longer; places other than a disk."""

import json
import shutil
import struct

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import pretrained
from vla_jax.models.pretrained.files import INDEX, open_files

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}


@pytest.fixture
def single(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_single_file_and_its_folder(single):
    for path in (single, single.parent):
        tensors = open_files(str(path)).tensors
        assert tensors.keys() == TENSORS.keys()
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(tensors[name].read(), value)


def test_a_view_takes_no_memory_of_its_own(single):
    assert isinstance(open_files(str(single)).tensors["a"].read(), np.memmap)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def no_header(path):
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def half_a_header(path):
    path.write_bytes(path.read_bytes()[:40])


def damaged_header(path):
    data = bytearray(path.read_bytes())
    data[8] = ord("!")
    path.write_bytes(bytes(data))


def wrong_size(path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(20))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"expected \d+ bytes, found \d+\. Download it again"),
        (no_header, "expected a safetensors file, found no header of one"),
        (half_a_header, r"expected \d+ bytes, found 40\. Download it again"),
        (damaged_header, "found a damaged header"),
        (wrong_size, r"tensor a: expected 24 bytes for \(2, 3\), found 20"),
    ],
)
def test_damaged_safetensors(single, damage, message):
    damage(single)
    with pytest.raises(UserError, match=message):
        open_files(str(single))


def test_a_cut_npz(tmp_path, golden):
    whole = tmp_path / "pg1.npz"
    shutil.copy(golden("pg1")[0], whole)
    cut(whole)
    with pytest.raises(UserError, match=r"pg1\.npz: expected an npz archive.*Download it again"):
        open_files(str(whole))


def test_an_npz_of_something_else(tmp_path):
    np.savez(tmp_path / "x.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match=r"unknown without a config\.json.*img/\*.*found weights"):
        pretrained.load(str(tmp_path / "x.npz"))


def test_an_npz_of_half_a_model(tmp_path, golden):
    with np.load(golden("pg1")[0]) as archive:
        text = {name: archive[name] for name in archive.files if "/llm/" in name}
    np.savez(tmp_path / "x.npz", **text)
    with pytest.raises(UserError, match="found KeyError 'img/embedding/kernel'"):
        pretrained.load(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [],
            "expected model.safetensors, model.safetensors.index.json or one .npz, found an empty",
        ),
        (["pytorch_model.bin"], r"found pytorch_model\.bin"),
        (["a.npz", "b.npz"], r"found a\.npz, b\.npz\. Name the one file"),
    ],
)
def test_a_folder_without_a_checkpoint(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        open_files(str(tmp_path))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="expected a file or folder, found nothing there"):
        open_files(str(tmp_path / "nothing"))


def test_a_missing_shard_is_named(single):
    single.rename(single.with_name("one.safetensors"))
    where = {"a": "one.safetensors", "b": "two.safetensors"}
    (single.parent / INDEX).write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UserError, match=r"the 2 shards.*1 missing: two\.safetensors"):
        open_files(str(single.parent))
    where["b"] = "one.safetensors"
    where["c"] = "one.safetensors"
    (single.parent / INDEX).write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UserError, match="expected tensors of its shards, found c"):
        open_files(str(single.parent))
    (single.parent / INDEX).write_text("{")
    with pytest.raises(UserError, match=r"index\.json: expected JSON"):
        open_files(str(single.parent))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "expected model_type paligemma, openvla.*found gpt2"),
        ({"model_type": "paligemma"}, "expected the sizes of the model, found KeyError"),
        (
            {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}},
            "plain rotary positions",
        ),
        ({"model_type": "llama", "hidden_act": "swish7"}, "hidden_act: expected .*found swish7"),
    ],
)
def test_a_model_that_is_not_built_here(single, config, message):
    (single.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        pretrained.load(str(single))


def test_object_storage(golden, paligemma):
    """Ranged reads through fsspec; its memory takes the place of a bucket."""
    system = fsspec.filesystem("memory")
    system.put_file(golden("pg1")[0], "/bucket/pg1.npz")
    model = pretrained.load("memory://bucket/pg1.npz")
    for name, leaf in trees.named_leaves(model.params).items():
        np.testing.assert_array_equal(leaf, trees.named_leaves(paligemma("pg1").params)[name])


def test_the_hub(golden, openvla_config, monkeypatch):
    """The hub is not reachable from a test; what it is asked for is what is checked."""
    asked = []

    def download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        return golden("openvla")[0]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert pretrained.load("hf://openvla/tiny@main", openvla_config).vocabulary == 268
    assert pretrained.load("hf://openvla/tiny", openvla_config).vocabulary == 268
    assert [name[:2] for name in asked] == [("openvla/tiny", "main"), ("openvla/tiny", None)]
    assert "*.safetensors" in asked[0][2]


def test_the_hub_refuses(monkeypatch):
    def download(*_, **__):
        raise OSError("401 Client Error\nmore of it")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(
        UserError, match=r"cannot be downloaded \(401 Client Error\).*hf auth login"
    ):
        pretrained.load("hf://google/paligemma-3b-pt-224")
    with pytest.raises(UserError, match="expected hf://OWNER/NAME"):
        pretrained.load("hf://paligemma")


def test_without_the_hub_client(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        pretrained.load("hf://google/paligemma-3b-pt-224")
