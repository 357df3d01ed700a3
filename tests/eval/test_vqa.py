import pytest

from vla_jax.core.batch import Example
from vla_jax.eval import vqa


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("red", "red", True),
        (" red ", "red", True),
        ("blue", "red", False),
        ("red cube", "red", False),
        ("", "red", False),
        ("<loc0100><loc0050>", "<loc0100><loc0050>", True),
        ("<loc0125><loc0025>", "<loc0100><loc0050>", True),
        ("<loc0126><loc0050>", "<loc0100><loc0050>", False),
        ("<loc0100><loc0024>", "<loc0100><loc0050>", False),
        ("<loc0100> <loc0050>", "<loc0100><loc0050>", True),
        ("<loc0050><loc0100>", "<loc0100><loc0050>", False),
        ("<loc0100>", "<loc0100><loc0050>", False),
        ("<loc0100><loc0050><loc0050>", "<loc0100><loc0050>", False),
        ("red", "<loc0100><loc0050>", False),
        ("<loc0100>", "red", False),
    ],
)
def test_words_are_exact_and_places_within_the_tolerance(answer, truth, expected):
    assert vqa.is_correct(answer, [truth], locations=250, tolerance=0.1) is expected


class Questions:
    """Question i is about an image of value i; its answer is i."""

    def __len__(self):
        return 7

    def example(self, i):
        return Example(
            images={"primary": (bytes([i]),)},
            prefix=f"which {i}",
            is_prompt=i % 3 == 0,
            suffix=str(i),
            dataset="web",
            episode=i,
        )

    def answers(self, i):
        return [str(i), f"number {i}"]

    def question_kind(self, i):
        return "odd" if i % 2 else "even"


class Policy:
    """Reads the answer off the image, wrongly for 3, and remembers the size of its batches."""

    def __init__(self):
        self.batches = []

    @property
    def observer(self):
        return self

    def read(self, example):
        return example.images["primary"][0][0]

    def answer_batch(self, values, questions, *, are_prompts):
        self.batches.append(len(questions))
        assert questions == [f"which {value}" for value in values]
        assert are_prompts == [value % 3 == 0 for value in values]
        return ["?" if value == 3 else str(value) for value in values]


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (100, 7), (5, 50), (6, 2)])
def test_every_question_is_asked_once_in_batches_of_one_size(count, batch_size):
    policy = Policy()
    results = vqa.answer_all(policy, Questions(), count, batch_size=batch_size)
    assert [truths[0] for _, truths, _ in results] == [str(i) for i in range(min(count, 7))]
    assert set(policy.batches) == {batch_size}
    assert results[3] == ("odd", ["3", "number 3"], "?")
    assert results[4] == ("even", ["4", "number 4"], "4")


def test_rates_per_kind():
    results = vqa.answer_all(Policy(), Questions(), 7)
    rates = vqa.rates(results, locations=10)
    assert list(rates) == ["even", "odd"]
    assert (rates["even"].rate, rates["even"].episodes) == (1, 4)
    assert (rates["odd"].rate, rates["odd"].episodes) == (pytest.approx(2 / 3), 3)
