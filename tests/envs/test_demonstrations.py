"""Demonstrations on disk: what TFDS reads is what was generated, in RLDS form, seen words only."""

import collections
import itertools

import numpy as np
import pytest
import simplejpeg

from vla_jax.data import records
from vla_jax.envs.tabletop import demonstrations, expert, render, scene, world
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.expert import NoiseConfig


@pytest.fixture(scope="module")
def read_back(small_datasets):
    """Episodes as TFDS gives them: per episode its metadata and its list of steps."""
    tfds = records.import_tfds()
    builder = tfds.builder_from_directory(small_datasets.robot)
    episodes = builder.as_dataset(split="train", shuffle_files=False)
    return [
        (tfds.as_numpy(episode["episode_metadata"]), list(tfds.as_numpy(episode["steps"])))
        for episode in episodes
    ]


def test_all_episodes_come_back_in_order(read_back, small_config):
    ids = [metadata["episode_id"] for metadata, _ in read_back]
    assert ids == list(range(small_config.demonstrations.episodes))


def test_steps_come_back_as_generated_and_images_byte_for_byte(
    read_back, small_config, small_datasets
):
    import tensorflow as tf

    paths = sorted(map(str, small_datasets.robot.glob("*.tfrecord-*")))
    raw = tf.data.TFRecordDataset(paths).take(5).as_numpy_iterator()
    for index, serialized in enumerate(raw):
        made = demonstrations.episode(small_config.demonstrations, 64, 3, index)["steps"]
        example = tf.train.Example.FromString(serialized)
        stored = example.features.feature["steps/observation/image"].bytes_list.value
        assert list(stored) == [step["observation"]["image"] for step in made]
        _, steps = read_back[index]
        assert len(steps) == len(made)
        for found, step in zip(steps, made, strict=True):
            np.testing.assert_array_equal(found["action"], step["action"])
            np.testing.assert_array_equal(
                found["observation"]["state"], step["observation"]["state"]
            )
            assert found["language_instruction"].decode() == step["language_instruction"]
            decoded = simplejpeg.decode_jpeg(step["observation"]["image"])
            difference = found["observation"]["image"].astype(int) - decoded
            assert np.abs(difference).mean() < 1.0  # decoders differ in their transforms


def test_flags_reward_and_discount_follow_rlds(read_back):
    for _, steps in read_back:
        ends = [False] * (len(steps) - 1) + [True]
        assert [bool(step["is_first"]) for step in steps] == ends[::-1]
        assert [bool(step["is_last"]) for step in steps] == ends
        assert [bool(step["is_terminal"]) for step in steps] == ends
        assert [float(step["reward"]) for step in steps] == [float(end) for end in ends]
        assert [float(step["discount"]) for step in steps] == [1.0 - end for end in ends]
        assert [bool(step["action"][0] > 0.5) for step in steps] == ends


def test_robot_data_never_shows_a_held_out_or_new_block_nor_says_a_synonym(read_back):
    names = {block.name for block in world.SEEN}
    synonyms = {*world.COLOUR_SYNONYMS.values(), *world.SHAPE_SYNONYMS.values()}
    shown = collections.Counter()
    for metadata, steps in read_back:
        shown.update(metadata["blocks"].decode().split(", "))
        assert metadata["split"] == b"seen"
        assert not synonyms & set(steps[0]["language_instruction"].decode().split())
    assert set(shown) <= names
    assert len(shown) == len(names)  # and enough episodes to mean it


def test_stored_actions_are_the_experts_while_the_executed_ones_stray():
    made = demonstrations.episode(DemonstrationsConfig(tasks=("side",)), 64, 0, 0)["steps"]
    rng = np.random.default_rng([0, 1, 0, 0])
    replay = scene.sample(rng, tasks=("side",), blocks=(1, 3))
    strayed = 0.0
    for step, following in itertools.pairwise(made):
        np.testing.assert_array_equal(step["action"], expert.scene_action(replay))
        replay.step(expert.perturb(step["action"], rng, NoiseConfig()))
        before, after = step["observation"]["state"], following["observation"]["state"]
        strayed += np.abs(after[:2] - before[:2] - step["action"][1:3]).sum()
    assert strayed > 0.02


def test_images_show_the_state_that_is_stored_beside_them():
    quiet = DemonstrationsConfig(noise=NoiseConfig(motion=0, wrong_grip=0, random_move=0))
    made = demonstrations.episode(quiet, 64, 0, 4)["steps"]
    replay = scene.sample(np.random.default_rng([0, 1, 4, 0]), blocks=(1, 3))
    for step in made:
        shown = simplejpeg.decode_jpeg(step["observation"]["image"]).astype(int)
        assert np.abs(shown - render.render(replay, 64)).mean() < 2
        np.testing.assert_array_equal(step["observation"]["state"], replay.state)
        replay.step(step["action"])
    assert replay.is_goal()


def test_an_episode_depends_on_seed_and_number_alone():
    config = DemonstrationsConfig()
    span = demonstrations.episodes(config, 64, 0, 5, 8)
    alone = demonstrations.episode(config, 64, 0, 6)
    assert alone["episode_metadata"] == span[1]["episode_metadata"]
    images = [step["observation"]["image"] for step in alone["steps"]]
    assert images == [step["observation"]["image"] for step in span[1]["steps"]]
    other = demonstrations.episode(config, 64, 1, 6)
    assert images[0] != other["steps"][0]["observation"]["image"]
