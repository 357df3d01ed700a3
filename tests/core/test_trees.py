import collections

import jax
import numpy as np
import pytest

from vla_jax.core import errors, trees

Pair = collections.namedtuple("Pair", ["left", "right"])
TREE = {"vision": {"kernel": 1, "bias": 2}, "decoder": [3, Pair(left=4, right=None)]}


def test_names_spell_the_whole_path():
    assert trees.named_leaves(TREE) == {
        "decoder/0": 3,
        "decoder/1/left": 4,
        "vision/bias": 2,
        "vision/kernel": 1,
    }


def test_map_with_name_keeps_the_structure():
    out = trees.map_with_name(lambda name, leaf, more: f"{name}={leaf + more}", TREE, TREE)
    assert out["decoder"][1] == Pair(left="decoder/1/left=8", right=None)
    assert out["vision"] == {"kernel": "vision/kernel=2", "bias": "vision/bias=4"}


def test_nest_reads_names_backwards():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert trees.nest(trees.named_leaves(tree)) == tree
    assert trees.nest({}) == {}


def test_size_counts_elements():
    tree = {"a": np.zeros((2, 3)), "b": [jax.ShapeDtypeStruct((5,), np.float32), np.zeros(())]}
    assert trees.size(tree) == 12
    assert trees.size({}) == 0


def test_mask_matches_whole_names():
    assert trees.mask(TREE, "vision/.*") == {
        "vision": {"kernel": True, "bias": True},
        "decoder": [False, Pair(left=False, right=None)],
    }
    assert trees.mask(TREE, ".*/(bias|left)")["vision"] == {"kernel": False, "bias": True}


def test_the_empty_pattern_marks_nothing():
    assert not any(trees.named_leaves(trees.mask(TREE, "")).values())


@pytest.mark.parametrize("pattern", ["vision", "visoin/.*"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(errors.UserError, match="none among 4 leaves"):
        trees.mask(TREE, pattern)


def test_a_broken_pattern_is_refused():
    with pytest.raises(errors.UserError, match="regular expression"):
        trees.mask(TREE, "vision/(")
