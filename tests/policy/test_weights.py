"""Files of weights are those that the library reads, however they are cut."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_jax.core.errors import UserError
from vla_jax.policy.export import weights

VALUES = {
    f"layer/{n}": np.random.default_rng(n).standard_normal((n + 1, 3), np.float32) for n in range(6)
} | {"scalar": np.float32([2.5]).reshape(())}


def tensors(values):
    return [
        weights.Tensor(name=name, shape=value.shape, read=lambda value=value: value)
        for name, value in values.items()
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_file_holds_all_in_the_dtype_asked_for(tmp_path, dtype):
    weights.save(tmp_path, tensors(VALUES), dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == VALUES.keys()
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    for name, value in VALUES.items():
        np.testing.assert_array_equal(found[name], value.astype(kind))


def test_shards_are_below_their_size_and_in_the_index(tmp_path):
    weights.save(tmp_path, tensors(VALUES), "float32", shard_bytes=80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in VALUES.values())
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        found = load_file(tmp_path / file)
        assert sum(value.nbytes for value in found.values()) <= 80
        for name, value in found.items():
            assert index["weight_map"][name] == file
            np.testing.assert_array_equal(value, VALUES[name])


def test_no_more_than_a_tensor_is_in_memory(tmp_path):
    size, count = 1_000_000, 12

    def read():
        return np.ones(size, np.float32)

    many = [weights.Tensor(name=str(n), shape=(size,), read=read) for n in range(count)]
    tracemalloc.start()
    weights.save(tmp_path, many, "float32", shard_bytes=4 * size * 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 4 * size  # the tensor, its copy, the last one


def test_a_number_that_does_not_fit_is_named(tmp_path):
    large = {"a": np.ones(2, np.float32), "b": np.float32([1, 1e6])}
    with pytest.raises(UserError, match=r"parameter b: expected finite numbers of float16"):
        weights.save(tmp_path, tensors(large), "float16")
