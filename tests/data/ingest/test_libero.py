"""LIBERO's files become what OpenVLA's published RLDS sets hold, readable by TFDS and the index."""

import numpy as np
import pytest
import source_files
from source_files import h5py

from vla_jax.core.errors import UserError
from vla_jax.data import images, indexing, records
from vla_jax.data.episodes import Episodes
from vla_jax.data.ingest import formats
from vla_jax.data.ingest.encoding import Encoder
from vla_jax.data.ingest.libero import Libero
from vla_jax.data.ingest.options import Options
from vla_jax.data.robots.libero import ROBOTS


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two files below a folder, 4 and 11 episodes."""
    root = tmp_path_factory.mktemp("libero")
    (root / "source").mkdir()
    source_files.libero(root / "source/a_demo.hdf5")
    source_files.libero(root / "source/b_demo.hdf5", episodes=11, instruction=["open", "it"])
    reader = Libero(root / "source", Options())
    formats.ingest(reader, root / "x/libero_x/1.0.0", name="libero_x", description="Some.")
    return root / "x/libero_x/1.0.0"


def test_tfds_reads_what_the_published_sets_hold(written):
    builder = records.import_tfds().builder_from_directory(written)
    steps = builder.info.features["steps"]
    assert set(steps.keys()) == {
        *("observation", "action", "reward", "discount", "language_instruction"),
        *("is_first", "is_last", "is_terminal"),
    }
    shapes = {name: feature.shape for name, feature in steps["observation"].items()}
    picture = (source_files.SIZE, source_files.SIZE, 3)
    assert shapes == {
        "image": picture,
        "wrist_image": picture,
        "state": (8,),
        "joint_state": (7,),
    }
    assert (steps["action"].shape, steps["action"].dtype) == ((7,), np.float32)
    assert "gripper -1 open" in builder.info.features["steps"]["action"].doc.desc
    assert builder.info.splits["train"].num_examples == 15


def test_an_episode_comes_back_with_its_numbers_flags_and_words(written):
    builder = records.import_tfds().builder_from_directory(written)
    episode = next(iter(builder.as_dataset("train").take(1)))
    steps = list(episode["steps"].as_numpy_iterator())
    assert len(steps) == 5
    for name in ("is_first", "is_last", "is_terminal", "reward"):
        at = 0 if name == "is_first" else 4
        assert [bool(step[name]) for step in steps] == [t == at for t in range(5)]
    assert {step["language_instruction"] for step in steps} == {b"pick up the bowl"}
    states = np.stack([step["observation"]["state"] for step in steps])
    expected = np.concatenate([source_files.numbers(0, 5, n) for n in (6, 2)], axis=1)
    np.testing.assert_array_equal(states, expected.astype(np.float32))
    actions = np.stack([step["action"] for step in steps])
    np.testing.assert_array_equal(
        actions, np.tanh(source_files.numbers(0, 5, 7)).astype(np.float32)
    )
    assert episode["episode_metadata"]["file_path"].numpy().endswith(b"source/a_demo.hdf5")


def test_the_frame_index_finds_every_frame_in_natural_order(written, tmp_path):
    index = indexing.ensure(written, cache_dir=tmp_path)
    assert index.episodes == 15
    lengths = [*range(5, 9), *range(5, 16)]  # demo_10 is the last of its file, not the third
    assert np.diff(index.starts).tolist() == lengths
    words = index.distinct_texts("steps/language_instruction")
    assert sorted(words) == ["open it", "pick up the bowl"]
    frame = int(index.starts[2]) + 3
    found = images.decode(index.image_bytes("steps/observation/image", frame), "x")
    turned = source_files.pictures(2, 7)[3][::-1, ::-1]
    assert np.abs(found.astype(int) - turned).max() <= 6
    assert np.abs(found.astype(int) - turned[::-1, ::-1]).max() > 60


def test_the_libero_adapter_trains_on_it(written, tmp_path):
    robot = next(robot for robot in ROBOTS if robot.name == "libero_spatial_no_noops")
    wanted = indexing.Wanted(arrays=robot.arrays, texts=robot.instruction)
    index = indexing.ensure(written, wanted=wanted, cache_dir=tmp_path)
    source = Episodes(index, robot, views=("primary", "wrist"))
    example = source.example(5)
    assert (len(source), source.state_size) == (sum(np.diff(index.starts)), 8)
    commanded = np.tanh(source_files.numbers(1, 6, 7))[0]
    assert example.action is not None
    np.testing.assert_allclose(example.action[0, :6], commanded[:6], rtol=1e-6)
    assert example.action[0, 6] == np.clip(1 - commanded[6], 0, 1).astype(np.float32)  # 1 is open
    assert set(example.images) == {"primary", "wrist"}


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        ("as_stored", lambda image: image),
        ("flipped", lambda image: image[::-1]),
        ("rotated", lambda image: image[::-1, ::-1]),
    ],
)
def test_pixels_survive_without_loss_as_png_in_every_orientation(tmp_path, orientation, turn):
    path = source_files.libero(tmp_path / "a.hdf5", episodes=1)
    options = Options(encoder=Encoder(lossless=True), orientation=orientation)
    episode = Libero(path, options).episode(0)
    for t, data in enumerate(episode.images["observation/image"]):
        pixels = source_files.pictures(0, 5)[t]
        np.testing.assert_array_equal(images.decode(data, "x"), turn(pixels))


def test_upright_images_are_not_turned(tmp_path):
    def upright(file):
        file["data"].attrs["macros_image_convention"] = "opencv"

    path = source_files.libero(tmp_path / "a.hdf5", episodes=1, change=upright)
    reader = Libero(path, Options(encoder=Encoder(lossless=True)))
    assert "kept as they are stored" in reader.notes[0]
    pixels = images.decode(reader.episode(0).images["observation/image"][0], "x")
    np.testing.assert_array_equal(pixels, source_files.pictures(0, 1)[0])


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("KITCHEN_SCENE10_close_the_drawer_demo.hdf5", "", "close the drawer"),
        ("pick_up_the_cup_demo.hdf5", "", "pick up the cup"),
        ("pick_up_the_cup_demo.hdf5", "lift it", "lift it"),
    ],
)
def test_a_file_without_instruction_is_named_after_it(tmp_path, name, given, expected):
    path = source_files.libero(tmp_path / name, episodes=1, instruction=None)
    episode = Libero(path, Options(instruction=given)).episode(0)
    assert set(episode.instructions) == {expected}


def test_an_empty_episode_is_named_and_nothing_is_left(tmp_path):
    def emptied(file):
        for name in (
            *(f"obs/{key}" for key in file["data/demo_1/obs"]),
            "actions",
            "dones",
            "rewards",
        ):
            values = file[f"data/demo_1/{name}"][:0]
            del file[f"data/demo_1/{name}"]
            file[f"data/demo_1/{name}"] = values

    source = source_files.libero(tmp_path / "a.hdf5", change=emptied)
    with pytest.raises(UserError, match=r"a\.hdf5 demo_1: no steps\. Remove the empty episode"):
        formats.ingest(Libero(source, Options()), tmp_path / "out", name="a", description="")
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]


def refused(path, change, i=1):
    source_files.libero(path, change=change)
    with pytest.raises(UserError) as error:
        Libero(path, Options()).episode(i)
    return str(error.value)


def test_a_missing_camera_names_file_and_episode_and_what_there_is(tmp_path):
    def drop(file):
        del file["data/demo_1/obs/agentview_rgb"]
        file["data/demo_1/obs/agentview_rgbd"] = np.zeros(3)

    message = refused(tmp_path / "a.hdf5", drop)
    assert f"{tmp_path / 'a.hdf5'} demo_1: no obs/agentview_rgb" in message
    assert "The nearest is 'obs/agentview_rgbd'" in message


def test_images_that_are_not_rgb_are_refused(tmp_path):
    def shrink(file):
        del file["data/demo_1/obs/agentview_rgb"]
        file["data/demo_1/obs/agentview_rgb"] = np.zeros((6, 8, 8, 4), np.uint8)

    assert "found uint8 [6, 8, 8, 4]" in refused(tmp_path / "a.hdf5", shrink)


def test_instructions_that_are_not_utf8_are_refused(tmp_path):
    def garble(file):
        file["data"].attrs["problem_info"] = np.bytes_(b'{"language_instruction": "\xff"}')

    assert "problem_info: expected text in UTF-8" in refused(tmp_path / "a.hdf5", garble)


def test_state_parts_of_different_lengths_are_refused(tmp_path):
    def shorten(file):
        del file["data/demo_1/obs/ee_ori"]
        file["data/demo_1/obs/ee_ori"] = np.zeros((4, 3))

    assert "expected one length, found [6, 4, 6]" in refused(tmp_path / "a.hdf5", shorten)


def test_a_pose_unlike_its_copy_is_refused(tmp_path):
    def flip(file):
        file["data/demo_1/obs/ee_pos"][2, 1] += 1e-4

    assert "obs/ee_states and obs/ee_pos, obs/ee_ori differ" in refused(tmp_path / "a.hdf5", flip)


def test_files_that_store_their_images_otherwise_are_refused(tmp_path):
    def upright(file):
        file["data"].attrs["macros_image_convention"] = "opencv"

    source_files.libero(tmp_path / "a.hdf5", episodes=1)
    source_files.libero(tmp_path / "b.hdf5", episodes=1, change=upright)
    with pytest.raises(
        UserError, match=r"b\.hdf5 demo_0: macros_image_convention: expected opengl"
    ):
        Libero(tmp_path, Options()).episode(1)
    Libero(tmp_path, Options(orientation="flipped")).episode(1)


def test_a_truncated_file_is_named(tmp_path):
    path = source_files.libero(tmp_path / "a.hdf5")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"a\.hdf5: HDF5 cannot read it"):
        Libero(path, Options())


def test_a_folder_or_file_without_demonstrations_is_refused(tmp_path):
    with pytest.raises(UserError, match="no demonstrations"):
        Libero(tmp_path, Options())
    with pytest.raises(UserError, match="no such file or folder"):
        Libero(tmp_path / "nowhere", Options())
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["other"] = np.zeros(1)
    with pytest.raises(UserError, match="no demonstrations"):
        Libero(tmp_path / "a.hdf5", Options())
