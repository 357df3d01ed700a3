"""What gives way to the next example, and what ends the run."""

import types

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.sealed import DamagedError
from vla_jax.data.skipped import Skipped


class Source:
    """Five examples; some raise what they are given."""

    name, kind = "toy", "robot"

    def __init__(self, **raised):
        self.raised = {int(name[1:]): error for name, error in raised.items()}

    def __len__(self):
        return 5

    def place(self, i):
        return f"toy example {i}"

    def example(self, i, draw=0):
        if i in self.raised:
            raise self.raised[i]
        return types.SimpleNamespace(number=i)


def use(example):
    """Anything will do."""


def test_a_bad_example_gives_way_to_the_next():
    skipped = Skipped(3)
    source = Source(e4=UserError("damaged"), e0=UserError("damaged, too"))
    number, example = skipped.sound(source, 4, use=use)
    assert number == example.number == 1
    assert skipped.counts() == {"record": 2}


@pytest.mark.parametrize("most", [None, 0, 100])
def test_a_damaged_index_is_no_bad_example(most):
    skipped = Skipped(most)
    with pytest.raises(DamagedError, match="index file a: damaged"):
        skipped.sound(Source(e2=DamagedError("index file a: damaged")), 2, use=use)
    assert skipped.flaws == {}


def test_nor_is_one_that_shows_while_an_example_is_used():
    def broken(example):
        raise DamagedError("index file a: damaged")

    skipped = Skipped(100)
    with pytest.raises(DamagedError):
        skipped.sound(Source(), 0, use=broken)
    assert skipped.flaws == {}
