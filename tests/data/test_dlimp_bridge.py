"""A stream of trajectories becomes a source with random access; dlimp itself where it is there."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import dlimp_bridge, images, indexing
from vla_jax.data.episodes import Episodes
from vla_jax.data.robots.tabletop import TABLETOP

KEYS = {
    "images": {"primary": "observation/image"},
    "action": "action",
    "state": "observation/state",
    "instruction": "language_instruction",
}


def png(pixels):
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def pixels(i, steps):
    return np.random.default_rng(i).integers(0, 255, (steps, 8, 12, 3), np.uint8)


def trajectory(i, steps=3):
    """What a DLataset yields: texts and numbers repeated at each step, images encoded."""
    return {
        "observation": {
            "image": np.array([png(each) for each in pixels(i, steps)], object),
            "state": np.full((steps, 4), i / 2),
        },
        "action": np.tile(np.arange(steps, dtype=np.float64)[:, None], (1, 8)) + i,
        "language_instruction": np.array([b"push the block"] * steps, object),
        "_len": np.full(steps, steps),
    }


class Stream:
    """A DLataset as the bridge sees it; counts how often it is walked."""

    is_flattened = False
    element_spec = "some types"

    def __init__(self, *trajectories, cardinality=-2):
        self.trajectories = trajectories
        self.walks = 0
        self._cardinality = cardinality

    def cardinality(self):
        return self._cardinality

    def as_numpy_iterator(self):
        self.walks += 1
        return iter(self.trajectories)


def spool(dataset, path, **options):
    return dlimp_bridge.spool(dataset, path, **({"name": "lab"} | KEYS | options))


def changed(i, key, value):
    """A trajectory with one entry replaced."""
    made = trajectory(i)
    node = made
    *levels, leaf = key.split("/")
    for level in levels:
        node = node[level]
    node[leaf] = value
    return made


def test_trajectories_come_back_by_number_with_their_bytes(tmp_path):
    made = [trajectory(i, steps=2 + i) for i in range(4)]
    index = indexing.ensure(spool(Stream(*made), tmp_path))
    assert np.diff(index.starts).tolist() == [2, 3, 4, 5]
    assert index.cameras == ("steps/observation/primary",)
    for i, each in enumerate(made):
        span = slice(index.starts[i], index.starts[i + 1])
        np.testing.assert_array_equal(index.array("steps/action")[span], each["action"])
        state = index.array("steps/observation/state")[span]
        np.testing.assert_array_equal(state, each["observation"]["state"])
        for t, data in enumerate(each["observation"]["image"]):
            assert index.image_bytes(index.cameras[0], int(index.starts[i]) + t) == data
    assert index.distinct_texts("steps/language_instruction") == ["push the block"]


def test_what_is_spooled_is_not_walked_again_until_something_changes(tmp_path):
    stream = Stream(trajectory(0))
    first = spool(stream, tmp_path)
    assert (spool(stream, tmp_path), stream.walks) == (first, 1)
    assert spool(stream, tmp_path, fingerprint="another") != first
    assert spool(stream, tmp_path, lossless=True) != first
    assert spool(stream, tmp_path, state=None) != first
    stream.element_spec = "other types"
    assert spool(stream, tmp_path) != first
    assert stream.walks == 5


@pytest.mark.parametrize("lossless", [True, False])
def test_pixels_are_encoded(tmp_path, lossless):
    flat = np.broadcast_to(np.uint8([[[200, 30, 90]]]), (3, 16, 16, 3))
    made = changed(0, "observation/image", flat)
    index = indexing.ensure(spool(Stream(made), tmp_path, lossless=lossless))
    data = index.image_bytes(index.cameras[0], 1)
    assert data.startswith(b"\x89PNG" if lossless else b"\xff\xd8")
    assert np.abs(images.decode(data, "x").astype(int) - flat[1]).max() <= (0 if lossless else 3)


def test_a_plain_iterable_and_one_text_per_trajectory_do_too(tmp_path):
    made = [
        changed(0, "language_instruction", b"push"),
        changed(1, "language_instruction", "öffne"),
    ]
    index = indexing.ensure(spool(made, tmp_path))
    texts = [index.text("steps/language_instruction", i) for i in range(6)]
    assert texts == ["push"] * 3 + ["öffne"] * 3


def test_progress_is_told_with_the_total_where_it_is_known(tmp_path):
    heard = []
    made = [trajectory(i) for i in range(2)]
    spool(Stream(*made, cardinality=2), tmp_path, on_progress=lambda *told: heard.append(told))
    assert heard == [("spool lab", 1, 2), ("spool lab", 2, 2)]
    heard.clear()
    spool(Stream(*made), tmp_path / "b", on_progress=lambda *told: heard.append(told))
    assert heard == [("spool lab", 1, 0), ("spool lab", 2, 0)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            changed(1, "observation/image", np.array([b"", b"", b""], object)),
            "image observation/image of lab trajectory 1 step 0 is missing",
        ),
        (
            changed(1, "observation/image", np.array([png(pixels(0, 1)[0]), b"x", b""], object)),
            "image observation/image of lab trajectory 1 step 1: neither JPEG nor PNG",
        ),
        (
            changed(1, "observation/image", np.zeros((3, 8, 12, 3), np.float32)),
            "lab trajectory 1: image observation/image: expected encoded bytes [steps], or uint8 "
            "[steps, rows, columns, 3], found float32 [3, 8, 12, 3]",
        ),
        (
            changed(1, "observation/image", np.zeros((3, 2, 8, 12, 3), np.uint8)),
            "found uint8 [3, 2, 8, 12, 3]. Spool the trajectories before windows",
        ),
        (
            changed(1, "action", np.array([[1.0] * 8, [np.inf] * 8, [0.0] * 8])),
            "lab trajectory 1 step 1: action dimension [0]: expected a finite number, found inf",
        ),
        (
            changed(1, "action", np.zeros((3, 7))),
            "lab trajectory 1: action is not as in the first episode: expected float32 [8], "
            "found float32 [7]",
        ),
        (
            changed(1, "action", np.zeros((4, 8))),
            "lab trajectory 1: observation/state and action differ in length",
        ),
        (
            changed(1, "language_instruction", np.array([b"a", b"\xff", b"c"], object)),
            "lab trajectory 1 step 1: language_instruction: expected UTF-8, found b'\\xff'",
        ),
        (
            changed(1, "language_instruction", np.array([b"a", b"", b"c"], object)),
            "lab trajectory 1 step 1: no instruction",
        ),
        (
            changed(1, "observation", {"images": 0}),
            "lab trajectory 1: no observation/state: expected in observation one of images",
        ),
        (changed(1, "action", np.array([b"x"] * 3, object)), "expected numbers at each step"),
    ],
)
def test_a_damaged_trajectory_is_named_and_nothing_is_left(tmp_path, bad, message):
    with pytest.raises(UserError) as error:
        spool(Stream(trajectory(0), bad), tmp_path)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_datasets_without_trajectories_or_end_are_refused(tmp_path):
    flattened = Stream(trajectory(0))
    flattened.is_flattened = True
    with pytest.raises(UserError, match=r"flattened to frames.*Spool it before \.flatten"):
        spool(flattened, tmp_path)
    with pytest.raises(UserError, match=r"has no end.*Spool it before \.repeat"):
        spool(Stream(trajectory(0), cardinality=-1), tmp_path)
    with pytest.raises(UserError, match="lab: no episodes"):
        spool(Stream(), tmp_path)
    with pytest.raises(
        UserError, match="lower-case letters, digits and _, a letter first, found 'My Lab'"
    ):
        spool(Stream(trajectory(0)), tmp_path, name="My Lab")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError])
def test_an_error_of_the_pipeline_is_its_own_and_leaves_nothing(tmp_path, error):
    def failing():
        yield trajectory(0)
        raise error("the lab's own code")

    with pytest.raises(error, match="the lab's own code"):
        spool(failing(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_beside_this_one_that_finishes_first_wins(tmp_path):
    def overtaken():
        yield trajectory(0)
        spool([trajectory(1)], tmp_path)

    index = indexing.ensure(spool(overtaken(), tmp_path))
    assert index.array("steps/action")[0, 0] == 1
    assert [path.name for path in tmp_path.glob("lab/*/*")] == ["1.0.0"]


def test_tensors_and_tf_data_are_understood(tmp_path, tensorflow):
    tf = tensorflow.tf
    made = [trajectory(i) for i in range(2)]
    tensors = [tf.nest.map_structure(tf.constant, each) for each in made]
    eager = indexing.ensure(spool(tensors, tmp_path / "eager"))
    stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *tensors)
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    streamed = indexing.ensure(spool(dataset, tmp_path / "streamed"))
    for index in (eager, streamed):
        np.testing.assert_array_equal(
            index.array("steps/action"), np.concatenate([each["action"] for each in made])
        )
        first = made[1]["observation"]["image"][0]
        assert index.image_bytes(index.cameras[0], 3) == first
    with pytest.raises(UserError, match="has no end"):
        spool(dataset.repeat(), tmp_path)


def adapter():
    """The tabletop's adapter, with the features that the bridge writes."""
    return dataclasses.replace(
        TABLETOP,
        name="spooled",
        images={"primary": "steps/observation/primary"},
        instruction=("steps/language_instruction",),
        arrays=("steps/action",),
    )


def episodes(index, factor):
    """What each episode of an index holds: its images, its words, its actions times a factor."""
    (camera,) = index.cameras
    for first, last in itertools.pairwise(index.starts.tolist()):
        yield (
            [index.image_bytes(camera, i) for i in range(first, last)],
            index.text("steps/language_instruction", first),
            (np.float32(factor) * index.array("steps/action")[first:last]).tolist(),
        )


def test_a_dlataset_of_a_lab_becomes_a_source(tmp_path, made):
    """The real thing: TFDS -> dlimp, in whatever order it yields -> spool -> examples."""
    dlimp = pytest.importorskip("dlimp")
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(made.robot))
    dataset = dlimp.DLataset.from_rlds(builder, split="train", shuffle=True).traj_map(
        lambda each: {**each, "action": each["action"] * 0.5}
    )
    with pytest.raises(UserError, match="flattened to frames"):
        spool(dataset.flatten(), tmp_path, state=None)
    with pytest.raises(UserError, match="has no end"):
        spool(dataset.repeat(), tmp_path, state=None)
    index = indexing.ensure(spool(dataset, tmp_path))
    original = indexing.ensure(made.robot, cache_dir=tmp_path)
    # The same bytes and words, the new numbers; in another order, each trajectory once.
    assert sorted(episodes(index, 1.0)) == sorted(episodes(original, 0.5))
    source = Episodes(index, adapter())
    assert len(source) == len(original)
    action = source.example(4).action
    assert action is not None
    np.testing.assert_array_equal(action[0], index.array("steps/action")[4])
    again = Episodes(indexing.ensure(spool(dataset, tmp_path)), adapter())
    assert again.fingerprint == source.fingerprint
    for a, b in zip(source.shuffle(7, 50, seed=1), again.shuffle(7, 50, seed=1), strict=True):
        np.testing.assert_array_equal(a, b)
