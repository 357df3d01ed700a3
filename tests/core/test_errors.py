import pytest

from vla_jax.core import errors


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "mesh 3x1."),
        ({"expected": 8}, "mesh 3x1: expected 8."),
        ({"found": 0}, "mesh 3x1: found 0."),
        ({"fix": "Set one to -1"}, "mesh 3x1. Set one to -1."),
        (
            {"expected": 8, "found": 3, "fix": "Set one to -1"},
            "mesh 3x1: expected 8, found 3. Set one to -1.",
        ),
    ],
)
def test_the_message_is_one_line_of_what_is_given(parts, text):
    assert str(errors.UserError("mesh 3x1", **parts)) == text


def test_one_line_whatever_a_library_wrote():
    assert str(errors.UserError("a:\n  b", found="c\nd")) == "a: b: found c d."


def test_long_lists_are_cut():
    assert errors.listed("abc") == "a, b, c"
    assert errors.listed(range(10), most=3) == "0, 1, 2 and 7 more"
