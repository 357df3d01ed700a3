"""Parsers on arbitrary input: what fits is read, all else is refused in one line."""

import json
import struct

import numpy as np
import pytest
import subjects  # noqa: F401  (its import path: modules that other tests have, too)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vla_jax.core.errors import UserError
from vla_jax.data import tfrecord
from vla_jax.models.pretrained.headers import tensors_of

SHORT = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # a failure is of the change, not of the day
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@st.composite
def changed(draw, data):
    """Bytes with a few of them replaced, left out or added."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(out) - 1, 0)))
        out[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(out)


def one_line(call):
    """Runs a call that may refuse its input, in one line and not by another exception."""
    try:
        return call()
    except UserError:  # has one line, whatever is in it
        return None


def framed(payload):
    """A TFRecord whose checksums are right, whatever it holds."""
    length = struct.pack("<Q", len(payload))
    sums = [struct.pack("<I", tfrecord.masked_crc32c(part)) for part in (length, payload)]
    return length + sums[0] + payload + sums[1]


RECORDS = framed(b"one record") + framed(b"") + framed(b"x" * 40)


@SHORT
@given(changed(RECORDS))
@example(RECORDS)
def test_records_are_those_that_were_written_or_refused(data):
    def read():
        found = []
        for record in tfrecord.records(lambda a, b: data[a:b], len(data), "shard"):
            payload = bytes(record.buffer[record.start : record.end])
            # Each is whole: its own checksum is beside it.
            assert framed(payload) in data
            found.append(payload)
        return found

    one_line(read)


@SHORT
@given(st.binary(max_size=80) | changed(b"\n\x10\n\x0e\n\x01x\x12\t\x12\x07\n\x05abcde"))
def test_the_protobuf_walk_reads_within_its_bytes_or_raises_value_error(data):
    buffer = bytearray(data)
    readers = {
        tfrecord.BYTES: tfrecord.spans,
        tfrecord.FLOAT: tfrecord.floats,
        tfrecord.INT: tfrecord.integers,
    }
    try:
        for kind, start, end in tfrecord.features(buffer, 0, len(buffer)).values():
            assert 0 <= start <= end <= len(buffer)
            if kind in readers:
                readers[kind](buffer, start, end)
    except (ValueError, IndexError):  # told by the walk as the place of the record
        pass


def safetensors(header, body=bytes(range(48))):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HEADER = {
    "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b": {"dtype": "U8", "shape": [16], "data_offsets": [32, 48]},
}


def read_all(path):
    return {name: np.asarray(tensor.read()) for name, tensor in tensors_of(str(path)).items()}


@SHORT
@given(
    changed(safetensors(HEADER))
    | JSON.map(safetensors)
    | st.fixed_dictionaries({"a": st.fixed_dictionaries(dict.fromkeys(HEADER["a"], JSON))}).map(
        safetensors
    )
)
@example(safetensors(HEADER))
def test_safetensors_give_their_bytes_or_are_refused(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    found = one_line(lambda: read_all(path))
    if found is not None:
        body = len(data) - 8 - struct.unpack("<Q", data[:8])[0]
        assert sum(value.nbytes for value in found.values()) <= max(body, 0)


@SHORT
@given(st.data())
def test_npz_gives_its_numbers_or_is_refused(tmp_path, data):
    path = tmp_path / "model.npz"
    numbers = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.int32)}
    np.savez(path, **numbers)
    path.write_bytes(data.draw(changed(path.read_bytes())))
    found = one_line(lambda: read_all(path))
    for name, value in (found or {}).items():
        if name in numbers:  # a name alone has no checksum that is read
            np.testing.assert_array_equal(value, numbers[name])


@pytest.mark.parametrize("seed", range(2))
def test_a_changed_policy_json_never_acts_differently(tmp_path, seed):
    """Whole values replaced; `matrix.py` flips bits and truncates."""
    import small_policies
    from torch_policy import TorchPolicy

    built = small_policies.build_policy(small_policies.CONFIGS["pyramid"])
    out = small_policies.export(built, tmp_path / "out", small_policies.look_around(built, 2))
    description = json.loads((out / "policy.json").read_text())
    rng = np.random.default_rng(seed)
    # Texts about the folder, and what may be empty, have no sense that could be checked.
    names = sorted(description.keys() - {"dtype", "plan", "robot", "spelled"})
    for name in rng.permutation(names)[:6]:
        for value in (None, -1, "text", [], {}, [float("nan")]):
            if value == description[name]:
                continue
            (out / "policy.json").write_text(json.dumps(description | {name: value}))
            for verify in (True, False):  # by digest, and by sense
                with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
                    TorchPolicy.load(out, unchecked=True, verify=verify)
