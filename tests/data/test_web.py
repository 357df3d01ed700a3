import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.web import Questions
from vla_jax.data import records


@pytest.fixture(scope="module")
def questions(made):
    return Questions(made.web, split="validation", image_size=32)


def test_pairs_are_those_that_tfds_reads(made, questions):
    builder = records.import_tfds().builder_from_directory(made.web)
    truth = list(builder.as_dataset(split="validation").as_numpy_iterator())
    assert len(questions) == len(truth) == 12
    for i, row in enumerate(truth):
        frame = questions.frame(i)
        assert (frame.prefix, frame.suffix) == (row["question"].decode(), row["answer"].decode())
        assert questions.kind(i) == row["kind"].decode()
        # Two JPEG decoders differ in rounding and in how they enlarge the colours.
        error = np.abs(frame.images["primary"].astype(int) - row["image"])
        assert error.max() <= 24
        assert error.mean() < 2


def test_a_pair_is_no_robot_frame(questions):
    frame = questions.frame(5)
    assert (frame.action, frame.dataset, frame.episode, frame.t) == (None, "web", 5, 0)


def test_texts_are_every_question_and_every_answer(questions):
    texts = list(questions.texts())
    assert texts[:2] == [questions.frame(0).prefix, questions.frame(0).suffix]
    assert len(texts) == 24


def test_training_and_validation_are_different_questions(made, questions):
    train = Questions(made.web, split="train", image_size=32)
    assert len(train) == 40
    assert not np.array_equal(
        train.frame(0).images["primary"], questions.frame(0).images["primary"]
    )


def test_a_split_that_is_not_there_is_refused(made):
    with pytest.raises(UserError, match="split 'test'"):
        Questions(made.web, split="test", image_size=32)
