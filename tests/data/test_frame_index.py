import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_rlds import STANDARD, feature, values, write

from vla_jax.core.errors import UserError
from vla_jax.data import indexing, records, schema
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.indexing import Wanted
from vla_jax.runtime import storage

IMAGE, ACTION, TEXT = "steps/observation/image", "steps/action", "steps/language_instruction"


@pytest.fixture(scope="module")
def index(made):
    return indexing.ensure(made.robot)


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
    assert index.cameras == (IMAGE,)
    flat = [(e, t, step) for e, steps in enumerate(truth) for t, step in enumerate(steps)]
    for i, (episode, t, step) in enumerate(flat):
        assert (index.episode[i], index.t[i]) == (episode, t)
        assert index.image_bytes(IMAGE, i) == step["observation"]["image"]
        np.testing.assert_array_equal(index.array(ACTION)[i], step["action"])
        assert index.text(TEXT, i) == step["language_instruction"].decode()


def test_every_image_is_that_of_tf_train_example(index, made, tensorflow):
    tf, i = tensorflow.tf, 0
    for shard in schema.read_split(made.robot, "train").shards:
        for record in tf.data.TFRecordDataset(str(made.robot / shard)).as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            for image in example.features.feature[IMAGE].bytes_list.value:
                assert index.image_bytes(IMAGE, i) == image
                i += 1
    assert i == len(index)


def test_spans_say_where_the_images_lie(index, made):
    shards = schema.read_split(made.robot, "train").shards
    data = [(made.robot / shard).read_bytes() for shard in shards]
    for i in range(len(index)):
        shard, start, length = index.span(IMAGE, i)
        assert data[shard][start : start + length] == index.image_bytes(IMAGE, i)
    # The same for all frames at once.
    episode = np.asarray(index.episode)
    starts = index.records[episode, 1] + index.spans(IMAGE)[:, 0]
    expected = [index.span(IMAGE, i) for i in range(len(index))]
    found = np.stack([index.records[episode, 0], starts, index.spans(IMAGE)[:, 1]], 1)
    assert found.tolist() == [list(span) for span in expected]


def test_episodes_are_runs_of_frames(index, truth):
    lengths = [len(steps) for steps in truth]
    assert index.starts.tolist() == [0, *np.cumsum(lengths).tolist()]
    assert np.asarray(index.episode).tolist() == np.repeat(np.arange(24), lengths).tolist()
    assert np.asarray(index.t).tolist() == [t for n in lengths for t in range(n)]


def test_statistics_are_those_of_numpy(index, truth):
    actions = np.array([step["action"] for steps in truth for step in steps], np.float64)
    found = index.statistics[ACTION]
    expected = {
        "q01": np.quantile(actions, 0.01, axis=0),
        "q99": np.quantile(actions, 0.99, axis=0),
        "mean": actions.mean(0),
        "std": actions.std(0),
        "low": actions.min(0),
        "high": actions.max(0),
    }
    assert actions.std(0).any()
    for name, values_ in expected.items():
        np.testing.assert_allclose(getattr(found, name), values_, rtol=1e-6, atol=1e-6)
    assert found.count == len(actions)


def test_statistics_of_hard_numbers_are_those_of_numpy(tensorflow, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_cauchy((700, 6)).astype(np.float32) * [1, 1e-4, 1e4, 1, 1, 0]
    x[:, 3] += 1e4  # a large mean beside a small spread
    x = x.astype(np.float32)
    flat = {"steps/x": feature("float32", (3, 2))}
    parts = np.split(x, [1, 300, 301, 650])
    episodes = [{"steps/x": (float, part.ravel().tolist())} for part in parts]
    found = indexing.ensure(write(tensorflow, tmp_path, episodes, flat=flat)).statistics["steps/x"]
    y = x.astype(np.float64)
    np.testing.assert_allclose(found.mean, y.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, y.std(0), rtol=1e-6)
    np.testing.assert_allclose(found.q01, np.quantile(y, 0.01, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.q99, np.quantile(y, 0.99, axis=0), rtol=1e-6)
    assert (found.low, found.high) == (tuple(y.min(0)), tuple(y.max(0)))


def test_numbers_that_are_not_finite_are_told_and_have_no_statistics(tensorflow, tmp_path):
    episodes = [values(2), values(3)]
    episodes[1]["steps/x"][1][3] = float("nan")
    index = indexing.ensure(write(tensorflow, tmp_path / "d" / "1.0.0", episodes))
    assert "steps/x" not in index.statistics
    frame, dimension = index.not_finite["steps/x"]
    assert (frame, dimension) == (3, 1)
    assert index.place(frame) == "d shard d-train.tfrecord-00000-of-00001 episode 1 step 1"


def test_it_works_from_many_threads(made):
    index = FrameIndex.open(made.robot)
    expected = [index.image_bytes(IMAGE, i) for i in range(len(index))]
    fresh = FrameIndex.open(made.robot)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: fresh.image_bytes(IMAGE, i), range(len(index)))) == expected


def test_arrays_are_mapped_and_read_only(index):
    actions = index.array(ACTION)
    assert actions.dtype == np.float32
    assert not actions.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        actions[0] = 1


def test_an_episode_feature_is_repeated_for_every_step(tensorflow, tmp_path):
    flat = {**STANDARD, "language": feature("text"), "weight": feature("float32")}
    lengths = (3, 1, 2)
    episodes = [
        values(n, language=(bytes, [b"task %d" % n]), weight=(float, [n / 2])) for n in lengths
    ]
    index = indexing.ensure(write(tensorflow, tmp_path, episodes, flat=flat, shards=2))
    # The first shard has the first and the third.
    assert index.episode.tolist() == [0, 0, 0, 1, 1, 2]
    assert index.t.tolist() == [0, 1, 2, 0, 1, 0]
    texts = [index.text("language", i) for i in range(6)]
    assert texts == ["task 3"] * 3 + ["task 2"] * 2 + ["task 1"]
    assert index.image_bytes("steps/image", 4) == b"picture 1 of 2"
    assert index.array("weight").tolist() == [1.5] * 3 + [1] * 2 + [0.5]
    assert index.place(4) == ("d shard d-train.tfrecord-00000-of-00002 episode 1 step 1")


def test_texts_are_kept_once(tensorflow, tmp_path):
    said = [[b"a", b"b", b"a"], [b"", "ü".encode()], [b"b"]]
    episodes = [values(len(texts), **{"steps/language": (bytes, texts)}) for texts in said]
    index = indexing.ensure(write(tensorflow, tmp_path, episodes))
    assert index.distinct_texts("steps/language") == ["a", "b", "", "ü"]
    assert index.text_ids("steps/language").tolist() == [0, 1, 0, 2, 3, 1]
    assert [index.text("steps/language", i) for i in range(6)] == ["a", "b", "a", "", "ü", "b"]
    assert index.texts("steps/language", 4) == ["ü"]


def test_a_list_of_texts_is_read_whole(tensorflow, tmp_path):
    answers = {"answers/text": feature("text")}
    flat = {"image": feature("image", (4, 4, 3)), **answers}
    lists = [[b"red", b"dark red"], [], [b"red"]]
    episodes = [
        {"image": (bytes, [b"p%d" % k]), "answers/text": (bytes, texts)}
        for k, texts in enumerate(lists)
    ]
    directory = write(tensorflow, tmp_path, episodes, flat=flat)
    # As TFDS writes a list of dictionaries.
    tree = json.loads((directory / "features.json").read_text())
    top = tree["featuresDict"]["features"]
    top["answers"] = {"sequence": {"feature": top["answers"], "length": "-1"}}
    (directory / "features.json").write_text(json.dumps(tree))
    index = indexing.ensure(directory)
    assert [index.texts("answers/text", i) for i in range(3)] == [["red", "dark red"], [], ["red"]]
    assert index.text("answers/text", 0) == "red"
    assert index.distinct_texts("answers/text") == ["red", "dark red"]
    with pytest.raises(UserError, match="episode 1 step 0: 'answers/text' is an empty list"):
        index.text("answers/text", 1)
    with pytest.raises(UserError, match="'answers/text' is a list of texts in each frame"):
        index.text_ids("answers/text")


def test_a_dataset_without_steps_is_read_as_single_frames(made):
    index = indexing.ensure(made.web, "validation")
    assert len(index) == index.episodes == 12
    assert index.t.tolist() == [0] * 12
    assert index.cameras == ("image",)


def test_png_images_are_found_as_well(tensorflow, tmp_path):
    png = b"\x89PNG\r\n\x1a\n" + bytes(50)
    episode = values(1, **{"steps/image": (bytes, [png])})
    index = indexing.ensure(write(tensorflow, tmp_path, [episode]))
    assert index.image_bytes("steps/image", 0) == png


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda index: index.image_bytes("steps/imag", 0), "no image 'steps/imag'.*'steps/image'"),
        (lambda index: index.array("steps/language"), "no array 'steps/language'.*one of steps/x"),
        (lambda index: index.text("steps/x", 0), "no text 'steps/x'.*one of steps/language"),
    ],
)
def test_a_feature_that_is_not_indexed_is_told_those_that_are(tensorflow, tmp_path, read, message):
    index = indexing.ensure(write(tensorflow, tmp_path, [values(1)]))
    with pytest.raises(UserError, match=message):
        read(index)


def test_several_indexes_are_open_at_once(tensorflow, tmp_path):
    directories = [
        write(tensorflow, tmp_path / str(n), [values(n)], shards=1) for n in range(1, 30)
    ]
    indexes = [indexing.ensure(directory, wanted=Wanted()) for directory in directories]
    for n, index in enumerate(indexes, 1):
        assert index.image_bytes("steps/image", n - 1) == b"picture %d of %d" % (n - 1, n)


def test_opening_reads_no_shard_and_no_array(made, index, monkeypatch):
    def read(*_):
        raise AssertionError("nothing has to be read")

    monkeypatch.setattr(storage.Files, "read", read)
    assert len(FrameIndex.open(made.robot)) == len(index)
