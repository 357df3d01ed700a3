"""PyTorch's files without PyTorch: equal tensors both ways, and nothing else gets in."""

import collections
import contextlib
import pickle
import struct
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import torch_file, torch_pickle
from vla_jax.models.pretrained.headers import tensors_of

RNG = np.random.default_rng(0)
ARRAYS = {
    "module.fc1.weight": RNG.normal(size=(3, 5)).astype(np.float32),
    "module.fc1.bias": RNG.normal(size=4).astype(ml_dtypes.bfloat16),
    "half": RNG.normal(size=(2, 3, 1)).astype(np.float16),
    "double": RNG.normal(size=7),
    "none": np.zeros((0, 3), np.float32),
    "one": np.float32(2.5),
}


@pytest.fixture
def path(tmp_path):
    torch_file.save(tmp_path / "part--5_checkpoint.pt", ARRAYS)
    return tmp_path / "part--5_checkpoint.pt"


def read(path):
    return {name: tensor.read() for name, tensor in tensors_of(str(path)).items()}


def test_what_is_written_is_read(path):
    found = read(path)
    assert list(found) == list(ARRAYS)
    for name, value in ARRAYS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    assert all(tensor.offset % 64 == 0 for tensor in tensors_of(str(path)).values() if tensor.size)


def test_equal_tensors_are_equal_files(path, tmp_path):
    (tmp_path / "again").mkdir()
    torch_file.save(tmp_path / "again" / path.name, ARRAYS)
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_pytorch_reads_what_is_written(path):
    torch = pytest.importorskip("torch")
    for mmap in (False, True):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert list(found) == list(ARRAYS)
        for name, value in ARRAYS.items():
            assert str(found[name].dtype).removeprefix("torch.") == str(value.dtype)
            np.testing.assert_array_equal(found[name].double().numpy(), value.astype(float))


def test_what_pytorch_writes_is_read(tmp_path):
    """A module's state with its metadata, parameters, views of one storage, another order."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).bfloat16()
    storage = torch.arange(12.0)
    values = module.state_dict()
    values["view"], values["other"] = storage[2:8].view(2, 3), storage[8:]
    values["transposed"] = torch.arange(6.0).view(2, 3).t()
    values["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(values, tmp_path / "a.pt")
    listed = tensors_of(str(tmp_path / "a.pt"))
    assert listed.keys() == values.keys()
    for name, value in values.items():
        if value.is_floating_point():
            expected = value.detach().double().numpy()
            np.testing.assert_array_equal(listed[name].read().astype(float), expected)
    with pytest.raises(UserError, match="expected tensors of floats, found Long"):
        listed["1.num_batches_tracked"].read()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda torch: {"a": torch.ones(2, 3)[:, :2]}, r"tensor a: expected numbers that lie"),
        (lambda torch: torch.nn.Linear(2, 2), "found torch.nn.modules.linear.Linear"),
        (lambda torch: {"step": 3}, "step: expected a tensor by name, found int"),
        (lambda torch: [torch.ones(2)], "expected a dict of tensors by name, found list"),
        (lambda torch: {"a": {"b": torch.ones(2)}}, "a: expected a tensor by name, found dict"),
        (lambda torch: {"a": torch.ones(2, dtype=torch.uint16)}, "torch._utils._rebuild_tensor_v3"),
    ],
)
def test_other_things_are_refused(tmp_path, make, message):
    torch = pytest.importorskip("torch")
    torch.save(make(torch), tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        tensors_of(str(tmp_path / "a.pt"))


def archive(path, data, storages=(bytes(24),), compression=zipfile.ZIP_STORED, **more):
    members = {"data.pkl": data, **more}
    members |= {f"data/{n}": storage for n, storage in enumerate(storages)}
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(f"a/{name}", content)
    return str(path)


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Stateful(dict):
    """Pickles to an object with a state."""

    def __reduce__(self):
        return collections.OrderedDict, (), {"__class__": 3}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (pickle.loads, b"", "_?pickle.loads"),
        (eval, "open('ran', 'w')", "__builtin__.eval|builtins.eval"),
        (getattr, "a", "__builtin__.getattr|builtins.getattr"),
        (zlib.crc32, b"", "zlib.crc32"),
    ],
)
def test_no_function_is_called(tmp_path, monkeypatch, protocol, function, argument, name):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"a": Calls(function, argument)}, protocol)
    with pytest.raises(UserError, match=f"found ({name}|pickle instruction)"):
        tensors_of(archive(tmp_path / "a.pt", data))
    assert not (tmp_path / "ran").exists()


def test_a_state_is_dropped(tmp_path):
    assert tensors_of(archive(tmp_path / "a.pt", pickle.dumps(Stateful(), 2))) == {}


def number(n):
    data = pickle.encode_long(n)
    return pickle.LONG1 + bytes([len(data)]) + data


def numbers(ns):
    return pickle.MARK + b"".join(map(number, ns)) + pickle.TUPLE


def text(s):
    return pickle.BINUNICODE + struct.pack("<I", len(s)) + s.encode()


def tensor(count=6, offset=0, size=(2, 3), stride=(3, 1), member="0", kind="FloatStorage"):
    """Returns the `data.pkl` of one tensor that may say anything."""
    return b"".join(
        [
            *(pickle.PROTO, b"\x02", pickle.EMPTY_DICT, text("a")),
            *(b"ctorch._utils\n_rebuild_tensor_v2\n", pickle.MARK, pickle.MARK),
            *(text("storage"), b"ctorch\n" + kind.encode() + b"\n", text(member), text("cpu")),
            *(number(count), pickle.TUPLE, pickle.BINPERSID, number(offset)),
            *(numbers(size), numbers(stride), pickle.NEWFALSE, pickle.NONE, pickle.TUPLE),
            *(pickle.REDUCE, pickle.SETITEM, pickle.STOP),
        ]
    )


def test_a_tensor_by_hand(tmp_path):
    (value,) = read(archive(tmp_path / "a.pt", tensor())).values()
    np.testing.assert_array_equal(value, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 7}, "tensor a: expected 28 bytes of FloatStorage, found 24"),
        ({"kind": "BFloat16Storage"}, "expected 12 bytes of BFloat16Storage, found 24"),
        ({"offset": 1}, r"expected at most 6 numbers, as its storage has, found \(2, 3\) from 1"),
        ({"offset": -1}, "a tensor without a storage"),
        ({"size": (2, 4)}, "expected at most 6 numbers"),
        ({"size": (2**62, 2**62)}, "expected at most 6 numbers"),
        ({"size": (-2, -3)}, "a tensor without a storage"),
        ({"size": (2,)}, "a tensor without a storage"),
        ({"stride": (1, 1)}, "expected numbers that lie one behind the other"),
        ({"stride": (0, 0)}, "expected numbers that lie one behind the other"),
        ({"member": "1"}, "tensor a: expected its bytes as a/data/1, found not there"),
        ({"member": "../data.pkl"}, "found not there"),
        ({"kind": "UntypedStorage"}, "found torch.UntypedStorage"),
    ],
)
def test_a_tensor_that_says_too_much(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "a.pt", tensor(**changes)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "found compressed"),
        ({"byteorder": b"big"}, "byteorder: expected little"),
        ({"b/data.pkl": b""}, "data.pkl: expected one such member, found 2"),
    ],
)
def test_an_archive_of_another_kind(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "a.pt", tensor(), **options))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02}",
        pickle.PROTO + b"\x02" + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.STOP,
        pickle.PROTO + b"\x04" + pickle.FRAME + b"\xff" * 8 + pickle.STOP,
        pickle.BINUNICODE + b"\xff\xff\xff\xffa",
        pickle.EMPTY_LIST + pickle.MARK + pickle.STOP,
        pickle.EMPTY_DICT + pickle.EMPTY_LIST + pickle.NONE + pickle.SETITEM + pickle.STOP,
    ],
)
def test_a_damaged_pickle(tmp_path, data):
    with pytest.raises(UserError, match=r"data\.pkl: expected a pickled dict of tensors"):
        tensors_of(archive(tmp_path / "a.pt", data))


def test_a_changed_number_is_found(path):
    data = bytearray(path.read_bytes())
    data[tensors_of(str(path))["double"].offset] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"CRC32 .* the file is corrupted"):
        read(path)


def test_a_file_before_pytorch_1_6(path):
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match=r"expected a file of torch\.save"):
        tensors_of(str(path))


def test_any_damage_is_one_line_or_none_at_all(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        if rng.random() < 0.2:
            data = data[: rng.integers(len(data))]
        path.write_bytes(bytes(data))
        with contextlib.suppress(UserError):
            values = [v for v in read(path).values() if v.size]
            assert all(any(np.array_equal(v, w) for w in ARRAYS.values()) for v in values)


def test_only_floats_are_written(tmp_path):
    with pytest.raises(KeyError):
        torch_file.save(tmp_path / "a.pt", {"a": np.arange(3)})
    assert list(tmp_path.iterdir()) == []


def test_the_machine_knows_few_instructions():
    known = {pickle.BUILD[0], *(code[0] for code in torch_pickle._OPCODES)}
    for name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "BINBYTES", "PERSID", "INT"):
        assert getattr(pickle, name)[0] not in known
