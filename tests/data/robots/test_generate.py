"""The generated sets are what TFDS calls RLDS."""

import generate
import numpy as np
import pytest

from vla_jax.data.records import import_tfds


@pytest.mark.parametrize("name", ["kuka", "bridge_orig", "berkeley_autolab_ur5"])
def test_tfds_reads_what_was_drawn(name, tmp_path):
    drawn = generate.draw(name, lengths=(2, 3, 1))
    generate.write(drawn, tmp_path / name, name)
    builder = import_tfds().builder_from_directory(tmp_path / name)
    assert builder.info.splits["train"].shard_lengths == [2, 1]
    steps = [step for episode in builder.as_dataset(split="train") for step in episode["steps"]]
    assert len(steps) == 6
    for feature, what in drawn.schema.items():
        if not feature.startswith("steps/"):
            continue
        read = [value_at(step, feature.removeprefix("steps/")) for step in steps]
        if what.get("image"):
            assert read[0].shape == tuple(what["shape"])
        elif what["dtype"] == "string":
            assert [text.decode() for text in read] == list(drawn.values[feature])
        else:
            np.testing.assert_array_equal(read, drawn.values[feature])


def value_at(step, name):
    """The value of a flat name in nested dictionaries."""
    for part in name.split("/"):
        step = step[part]
    return step.numpy()


def test_a_misspelt_feature_is_refused():
    with pytest.raises(AssertionError, match="stpes/action"):
        generate.draw("bridge_orig", **{"stpes/action": np.zeros((16, 7))})


def test_the_same_seed_draws_the_same():
    first, again, other = (generate.draw("viola", seed=seed).columns for seed in (3, 3, 4))
    feature = "steps/action/world_vector"
    np.testing.assert_array_equal(first[feature], again[feature])
    assert not np.array_equal(first[feature], other[feature])
