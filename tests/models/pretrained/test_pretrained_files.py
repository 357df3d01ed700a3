"""Files that are no checkpoints, or no longer; places other than a disk."""

import io
import json
import shutil
import struct
import zipfile

import fsspec
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import pretrained
from vla_jax.models.pretrained import filling
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


def header(**tensors):
    """Returns what writes a file of 24 bytes of data with this header."""

    def write(path):
        text = json.dumps(
            {
                name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
                for name, (dtype, shape, offsets) in tensors.items()
            }
        ).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))

    return write


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def twice(path):
    entry = '"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}'
    text = f"{{{entry}, {entry}}}".encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"expected \d+ bytes, found \d+\. Download it again"),
        (no_header, "expected a safetensors file, found no header of one"),
        (half_a_header, r"expected \d+ bytes, found 40\. Download it again"),
        (damaged_header, "a damaged header: not valid JSON"),
        (huge_header, "expected a safetensors file, found no header of one"),
        (twice, "the key 'a' appears twice in one object"),
        (header(a=("F32", [2, 3], [0, 20])), r"tensor a: expected 24 bytes for \(2, 3\), found 20"),
        (
            header(a=("F32", [2], [-8, 0])),
            r"header, tensor a, field data_offsets\[0\]: expected int >= 0",
        ),
        (header(a=("F32", [-2, -3], [0, 24])), r"tensor a, field shape\[0\]: expected int >= 0"),
        (header(a=("F32", ["6"], [0, 24])), r"tensor a, field shape\[0\]: expected int, got str"),
        (header(a=("F32", [4], [8, 24])), "tensor a: expected bytes from 0 on"),
        (
            header(a=("F32", [5], [0, 20]), b=("F32", [2], [16, 24])),
            "tensor b: .* 20 on.* found 16",
        ),
        (header(a=("F32", [5], [0, 20])), "expected 20 bytes, found 24"),
        (header(a=("F32", [7], [0, 28])), "expected 28 bytes, found 24"),
        (header(a=("F31", [6], [0, 24])), "expected a dtype of safetensors: .* found F31"),
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


ARRAYS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)}


def spoiled(data, place):
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_every_bit_of_an_npz_is_checked(tmp_path):
    """Bits of the archive that nothing reads (time stamps, versions) may differ; numbers not."""
    path = tmp_path / "x.npz"
    np.savez(path, **ARRAYS)
    data, noticed = path.read_bytes(), 0
    for place in range(len(data)):
        path.write_bytes(spoiled(data, place))
        try:
            found = {name: tensor.read() for name, tensor in open_files(path).tensors.items()}
        except UserError:
            noticed += 1
        else:
            assert found.keys() == ARRAYS.keys()
            assert all(np.array_equal(found[name], value) for name, value in ARRAYS.items())
    assert noticed > 0.6 * len(data)


def test_a_member_of_an_npz_whose_data_are_damaged_is_named(tmp_path):
    path = tmp_path / "x.npz"
    numbers = np.arange(10_000, dtype=np.float32)  # more than a look at the header reads
    np.savez(path, a=numbers)
    data = path.read_bytes()
    path.write_bytes(spoiled(data, data.index(numbers[5000:].tobytes()) + 9))
    with pytest.raises(UserError, match=r"x\.npz: a\.npy: expected CRC32 .* corrupted\. Download"):
        open_files(path).tensors["a"].read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.npy: expected an array, found EOF"),
        ({"shape": (6,)}, r"a\.npy: expected an array, found \d+ bytes for \(6,\)"),
        ({"shape": (-1,)}, r"a\.npy: expected an array, found \d+ bytes for \(-1,\)"),
    ],
)
def test_a_member_without_its_data_is_named(tmp_path, content, message):
    if isinstance(content, dict):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, **content}
        )
        content = stream.getvalue()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(UserError, match=message):
        open_files(tmp_path / "x.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(golden, tmp_path, value):
    with np.load(golden("pg1")[0]) as archive:
        arrays = dict(archive)
    name = next(name for name in arrays if name.endswith("attn_vec_einsum/w"))
    arrays[name][-1, -1, -1, -1] = value
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=rf"x\.npz: tensor {name}: expected finite numbers"):
        pretrained.load(tmp_path / "x.npz")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_finite_is_finite_in_every_dtype(dtype, value):
    largest = ml_dtypes.finfo(dtype).max
    values = np.array([0, -1, largest, -largest], dtype)
    assert filling.is_finite(values)
    values[1] = value
    assert not filling.is_finite(values)
    assert filling.is_finite(np.empty((0, 3), dtype))


def test_a_whole_file_counts_whatever_an_older_index_says(single):
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (single.parent / INDEX).write_text(json.dumps(index))
    assert open_files(single.parent).tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], r"expected object, got array"),
        ({"weight_map": None}, "field weight_map: expected object, got null"),
        ({"weight_map": {"a": 1}}, r"field weight_map\[\.\.\.\]: expected str, got int"),
        ({"weight_map": {"a": "../model.safetensors"}}, "field weight_map: expected the name of"),
        ({"weight_map": {"a": "/etc/passwd"}}, "field weight_map: expected the name of a file"),
    ],
)
def test_an_index_of_the_wrong_shape(single, index, message):
    single.unlink()
    (single.parent / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        open_files(single.parent)


def test_a_tensor_in_two_shards(single):
    shutil.copy(single, single.with_name("one.safetensors"))
    single.rename(single.with_name("two.safetensors"))
    where = {"a": "one.safetensors", "b": "two.safetensors"}
    (single.parent / INDEX).write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UserError, match="expected each tensor in one shard, found a, b in two"):
        open_files(single.parent)


def test_a_home_directory(single, monkeypatch):
    monkeypatch.setenv("HOME", str(single.parent))
    assert open_files("~").tensors.keys() == open_files("~/model.safetensors").tensors.keys()


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
        (["adapter_config.json", "adapter_model.safetensors"], "found adapters of peft alone"),
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
    with pytest.raises(UserError, match=r"index\.json: not valid JSON"):
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
        ({"model_type": ["llama"]}, "field model_type: expected str . null, got array"),
        (
            {"model_type": "llama", "hidden_size": "64"},
            "field hidden_size: expected int . null, got",
        ),
        ({"model_type": "llama", "num_hidden_layers": 10**9}, "layers: expected int <= 10000"),
        ({"model_type": "llama", "num_attention_heads": 0}, "heads: expected int >= 1"),
        ({"model_type": "paligemma", "text_config": []}, "text_config: expected object, got array"),
        ({"model_type": "openvla", "timm_model_ids": [], "text_config": {}}, "sizes of the model"),
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
