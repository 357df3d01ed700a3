"""The words and the sampled scenes of the tabletop: what may be shown and said."""

import itertools

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs.tabletop import scene, world


def test_held_out_pairs_are_one_per_seen_colour_and_shape():
    assert sorted(block.colour for block in world.HELD_OUT) == sorted(world.SEEN_COLOURS)
    assert sorted(block.shape for block in world.HELD_OUT) == sorted(world.SEEN_SHAPES)


def test_every_colour_and_shape_has_a_synonym_that_is_no_plain_word():
    synonyms = [*world.COLOUR_SYNONYMS.values(), *world.SHAPE_SYNONYMS.values()]
    assert set(world.COLOUR_SYNONYMS) == set(world.COLOURS)
    assert set(world.SHAPE_SYNONYMS) == set(world.SHAPES)
    assert len(set(synonyms)) == 16
    assert not set(synonyms) & ({*world.COLOURS} | {*world.SHAPES})


@pytest.mark.parametrize("split", world.SPLITS)
def test_only_the_target_is_unseen_and_blocks_differ_in_colour_and_shape(split):
    rng = np.random.default_rng(0)
    targets = set()
    for _ in range(200):
        blocks = scene.sample(rng, split=split, blocks=(1, 4)).blocks
        targets.add(blocks[0])
        assert set(blocks[1:]) <= set(world.SEEN)
        for one, other in itertools.combinations(blocks, 2):
            assert one.colour != other.colour
            assert one.shape != other.shape
    assert targets <= set(world.TARGETS[split])
    assert len(targets) >= min(4, len(world.TARGETS[split]))


def test_target_pools_are_disjoint_but_for_the_synonyms():
    pools = [set(world.TARGETS[s]) for s in world.SPLITS if s != "synonym"]
    assert sum(map(len, pools)) == len(set.union(*pools)) == 12 + 4 + 16 + 16 + 16
    assert world.TARGETS["synonym"] == world.TARGETS["seen"]


def test_blocks_start_apart_and_near_tasks_start_out_of_reach_of_the_goal():
    rng = np.random.default_rng(1)
    for _ in range(200):
        start = scene.sample(rng, tasks=("near",), blocks=(2, 3))
        for one, other in itertools.combinations(start.positions, 2):
            assert np.linalg.norm(one - other) > world.MIN_SEPARATION
        first, second = start.positions[:2]
        assert np.linalg.norm(first - second) > world.NEAR_DISTANCE + 0.01


@pytest.mark.parametrize("task", world.TASKS)
def test_no_episode_starts_at_its_goal(task):
    rng = np.random.default_rng(2)
    assert not any(scene.sample(rng, tasks=(task,), blocks=(2, 3)).is_goal() for _ in range(200))


def test_instructions_name_target_then_reference_and_only_the_target_by_synonym():
    blocks = (world.Block("red", "cube"), world.Block("blue", "ball"))
    said = {
        task: scene.instruct(blocks, task=task, direction="left", split="seen")
        for task in world.TASKS
    }
    assert said == {
        "pick": "pick up the red cube",
        "side": "move the red cube to the left",
        "near": "move the red cube near the blue ball",
        "stack": "stack the red cube on the blue ball",
        "two_stage": "move the red cube to the left then pick up the blue ball",
    }
    synonym = scene.instruct(blocks, task="near", direction="left", split="synonym")
    assert synonym == "move the crimson block near the blue ball"


def test_single_block_scenes_only_ask_what_one_block_allows():
    rng = np.random.default_rng(3)
    drawn = [scene.sample(rng, blocks=(1, 2)) for _ in range(200)]
    assert {start.task for start in drawn if len(start.blocks) == 1} == {"pick", "side"}
    assert {start.task for start in drawn if len(start.blocks) == 2} == {"pick", "side", "near"}
    only_near = [scene.sample(rng, tasks=("near",), blocks=(1, 3)) for _ in range(20)]
    assert all(len(start.blocks) >= 2 for start in only_near)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "sean"}, "tabletop split: expected one of .* found 'sean'"),
        ({"tasks": ("pik",)}, "tabletop task: expected one of .* found 'pik'"),
        ({"tasks": ()}, "tabletop tasks"),
        ({"blocks": (3, 2)}, "fewest <= most"),
        ({"blocks": (1, 5)}, "most <= 4"),
        ({"tasks": ("near",), "blocks": (1, 1)}, "need two blocks"),
    ],
)
def test_options_without_a_scene_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        scene.sample(np.random.default_rng(0), **options)
