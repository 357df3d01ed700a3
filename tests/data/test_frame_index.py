from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data import records

IMAGE, ACTION = "steps/observation/image", "steps/action"
TEXT, IDENTITY = "steps/language_instruction", "episode_metadata/episode_id"


@pytest.fixture(scope="module")
def index(made):
    return FrameIndex(made.robot, "train", images=(IMAGE,), arrays=(ACTION,), texts=(TEXT,))


@pytest.fixture(scope="module")
def truth(made):
    """Every step as TFDS reads it, images left encoded."""
    tfds = records.import_tfds()

    skip = {"steps": {"observation": {"image": tfds.decode.SkipDecoding()}}}
    options = tfds.ReadConfig(interleave_cycle_length=1)
    builder = tfds.builder_from_directory(made.robot)
    episodes = builder.as_dataset(split="train", decoders=skip, read_config=options)
    return [list(episode["steps"].as_numpy_iterator()) for episode in episodes]


def test_every_frame_is_what_tfds_reads(index, truth):
    assert index.episodes == len(truth) == 24
    assert len(index) == sum(map(len, truth))
    flat = [(e, t, step) for e, steps in enumerate(truth) for t, step in enumerate(steps)]
    for i, (episode, t, step) in enumerate(flat):
        assert (index.episode[i], index.t[i]) == (episode, t)
        assert index.image_bytes(IMAGE, i) == step["observation"]["image"]
        np.testing.assert_array_equal(index.array(ACTION)[i], step["action"])
        assert index.text(TEXT, i) == step["language_instruction"].decode()


def test_it_works_from_many_threads(index):
    expected = [index.image_bytes(IMAGE, i) for i in range(len(index))]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: index.image_bytes(IMAGE, i), range(len(index)))) == expected


def write(tensorflow, directory, records, shards=1):
    for n in range(shards):
        name = f"d-train.tfrecord-{n:05d}-of-{shards:05d}"
        tensorflow.write(directory / name, records[n::shards])


def steps(tensorflow, n, **others):
    return tensorflow.example(
        **{
            "steps/image": (bytes, [b"p%d" % k for k in range(n)]),
            "steps/x": (float, np.arange(2.0 * n).tolist()),
        }
        | others
    )


def test_an_episode_feature_is_repeated_for_every_step(tensorflow, tmp_path):
    episodes = [steps(tensorflow, n, language=(bytes, [b"task %d" % n])) for n in (3, 1, 2)]
    write(tensorflow, tmp_path, episodes, shards=2)
    index = FrameIndex(
        tmp_path, "train", images=("steps/image",), arrays=("steps/x",), texts=("language",)
    )
    # The first shard has the first and the third.
    assert index.episode.tolist() == [0, 0, 0, 1, 1, 2]
    assert index.t.tolist() == [0, 1, 2, 0, 1, 0]
    texts = [index.text("language", i) for i in range(6)]
    assert texts == ["task 3"] * 3 + ["task 2"] * 2 + ["task 1"]
    assert index.image_bytes("steps/image", 4) == b"p1"
    assert index.array("steps/x").tolist()[3:5] == [[0, 1], [2, 3]]


def test_a_numeric_episode_feature_is_repeated_too(tensorflow, tmp_path):
    write(tensorflow, tmp_path, [steps(tensorflow, 3, weight=(float, [0.5]))])
    index = FrameIndex(tmp_path, "train", images=("steps/image",), arrays=("weight",))
    assert index.array("weight").tolist() == [[0.5]] * 3


def test_integers_are_arrays_too(tensorflow, tmp_path):
    write(tensorflow, tmp_path, [steps(tensorflow, 2, **{"steps/n": (int, [-4, 9])})])
    index = FrameIndex(tmp_path, "train", images=("steps/image",), arrays=("steps/n",))
    assert index.array("steps/n").tolist() == [[-4], [9]]


def test_a_dataset_without_steps_is_read_as_single_frames(made):
    index = FrameIndex(made.web, "validation", images=("image",), texts=("answer",))
    assert len(index) == index.episodes == 12
    assert index.t.tolist() == [0] * 12


def test_a_missing_feature_is_named_with_those_there_are(made):
    with pytest.raises(UserError, match=r"no feature 'steps/acton'.*steps/action.*adapter"):
        FrameIndex(made.robot, "train", images=(IMAGE,), arrays=("steps/acton",))


def test_a_truncated_shard_is_named(tensorflow, tmp_path):
    write(tensorflow, tmp_path, [steps(tensorflow, 3)])
    shard = next(tmp_path.iterdir())
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match=rf"{shard.name}, byte 0: expected a whole record"):
        FrameIndex(tmp_path, "train", images=("steps/image",))


def test_a_shard_of_other_records_is_named(tensorflow, tmp_path):
    tensorflow.write(tmp_path / "d-train.tfrecord-00000-of-00001", [b"something else"])
    with pytest.raises(UserError, match=r"d-train\.tfrecord-00000-of-00001, byte 12"):
        FrameIndex(tmp_path, "train", images=("steps/image",))


def test_a_feature_whose_length_is_not_that_of_the_episode_is_named(tensorflow, tmp_path):
    write(tensorflow, tmp_path, [steps(tensorflow, 3, **{"steps/x": (float, [1.0] * 4)})])
    with pytest.raises(UserError, match=r"d-train.*'steps/x'.*4 values.*3 steps"):
        FrameIndex(tmp_path, "train", images=("steps/image",), arrays=("steps/x",))
    with pytest.raises(UserError, match=r"d-train.*'steps/x'"):
        FrameIndex(tmp_path, "train", images=("steps/image",), texts=("steps/x",))
