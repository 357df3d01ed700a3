import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import splits

FORMS = [
    "train",
    "train[:95%]",
    "train[95%:]",
    "train[-5%:]",
    "train[:-5%]",
    "train[10%:90%]",
    "train[12.5%:]",
    "train[3:]",
    "train[:7]",
    "train[-3:]",
    "train[2:-2]",
    "train[1:2]",
]


@pytest.mark.parametrize("count", [7, 10, 50, 199, 1000])
def test_parts_are_those_of_tfds(count):
    from tensorflow_datasets.core import splits as tfds_splits

    whole = {"train": tfds_splits.SplitInfo(name="train", shard_lengths=[count], num_bytes=0)}
    for form in FORMS:
        instruction = tfds_splits.AbstractSplit.from_spec(form)
        (expected,) = instruction.to_absolute(whole)
        start, stop = expected.from_ or 0, count if expected.to is None else expected.to
        part = splits.parse(form)
        assert part.split == "train"
        if start < stop:
            assert part.episodes(count, dataset="d") == range(start, stop), form
        else:
            with pytest.raises(UserError, match="a part of the"):
                part.episodes(count, dataset="d")


def test_no_bounds_are_the_whole_split():
    assert (
        splits.parse("train[:]").episodes(5, dataset="d")
        == splits.parse(" train ").episodes(5, dataset="d")
        == range(5)
    )


def test_the_two_sides_of_a_bound_are_the_whole():
    for count in range(2, 300):
        left = (
            splits.parse("train[:95%]").episodes(count, dataset="d")
            if round(count * 0.95)
            else range(0)
        )
        stop = left.stop
        if stop < count:
            assert splits.parse("train[95%:]").episodes(count, dataset="d") == range(stop, count)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("train+test", "split 'train\\+test'"),
        ("train[5]", "expected a form such as"),
        ("train[:x%]", "expected a form such as"),
        ("", "split ''"),
        ("train[:1.5]", "expected bounds such as 95% or 100, found 1.5"),
        ("train[:--5]", "expected a form"),
        ("train[:101%]", "percentages in -100..100, found 101%"),
    ],
)
def test_a_wrong_form_is_refused(text, found):
    with pytest.raises(UserError, match=found):
        splits.parse(text)


@pytest.mark.parametrize("text", ["val[20:]", "val[:0]", "val[11:12]", "val[:-20]", "val[5:5]"])
def test_a_part_beyond_the_split_or_empty_is_refused(text):
    with pytest.raises(UserError, match=r"dataset d, split 'val.*a part of the 10 episodes"):
        splits.parse(text).episodes(10, dataset="d")
