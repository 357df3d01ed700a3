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


def test_target_pools_are_disjoint_but_for_the_splits_that_differ_in_words():
    by_words = {"synonym", "relation", "symbol"}
    pools = [set(world.TARGETS[s]) for s in world.SPLITS if s not in by_words]
    assert sum(map(len, pools)) == len(set.union(*pools)) == 12 + 4 + 16 + 16 + 16
    assert all(world.TARGETS[split] == world.TARGETS["seen"] for split in by_words)


def every_instruction(split):
    """All sentences of a split, built from its words alone."""
    targets = {
        "synonym": [block.synonym for block in world.SEEN],
        "relation": [f"{word} object" for word in world.EXTREMES],
    }.get(split, [block.name for block in world.TARGETS[split]])
    places = world.SYMBOLS.values() if split == "symbol" else world.DIRECTIONS
    sides = {f"move the {target} to the {place}" for target in targets for place in places}
    if split == "symbol":
        return sides
    picks = {f"pick up the {target}" for target in targets}
    pairs = [(target, block.name) for target in targets for block in world.SEEN]
    nears = {f"move the {one} near the {other}" for one, other in pairs}
    stacks = {f"stack the {one} on the {other}" for one, other in pairs}
    twice = {f"{side} then pick up the {block.name}" for side in sides for block in world.SEEN}
    return sides | picks | nears | stacks | twice


def test_no_instruction_of_a_split_is_one_of_training_and_all_that_is_said_is_enumerated():
    training = every_instruction("seen")
    for number, split in enumerate(world.SPLITS):
        said = every_instruction(split)
        assert split == "seen" or not said & training
        rng = np.random.default_rng(number)
        drawn = [
            scene.sample(rng, split=split, blocks=(2, 3), tasks=world.tasks_of(split, world.TASKS))
            for _ in range(500)
        ]
        assert {one.task for one in drawn} == set(world.tasks_of(split, world.TASKS))
        assert {one.instruction for one in drawn} <= said


def test_training_never_says_the_words_that_only_the_web_explains():
    words = {word for sentence in every_instruction("seen") for word in sentence.split()}
    assert not words & {*world.EXTREMES, *world.SYMBOLS.values(), *world.COLOUR_SYNONYMS.values()}
    assert not words & {*world.SHAPE_SYNONYMS.values(), *world.NEW_COLOURS, *world.NEW_SHAPES}


def test_a_relation_means_the_target_and_clearly_so():
    rng = np.random.default_rng(5)
    for _ in range(200):
        start = scene.sample(rng, split="relation", blocks=(1, 3))
        word = start.instruction.split(" object")[0].split()[-1]
        axis, is_low = world.EXTREMES[word]
        along = start.positions[:, axis] * (1 if is_low else -1)
        assert len(along) >= 2
        assert np.all(along[1:] - along[0] >= world.CLEAR_GAP)


def test_a_symbol_names_the_side_of_the_goal():
    rng = np.random.default_rng(6)
    for _ in range(50):
        start = scene.sample(rng, split="symbol", blocks=(2, 3))
        assert start.task == "side"
        assert start.instruction.endswith(f"to the {world.SYMBOLS[start.direction]}")


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


def test_instructions_name_target_then_reference_and_only_the_target_in_other_words():
    start = scene.sample(np.random.default_rng(0), blocks=(2, 2))
    start.blocks = (world.Block("red", "cube"), world.Block("blue", "ball"))
    start.direction = "left"

    def said(task, target="red cube"):
        start.task = task
        return scene.instruct(start, target)

    assert {task: said(task) for task in world.TASKS} == {
        "pick": "pick up the red cube",
        "side": "move the red cube to the left",
        "near": "move the red cube near the blue ball",
        "stack": "stack the red cube on the blue ball",
        "two_stage": "move the red cube to the left then pick up the blue ball",
    }
    assert said("near", "crimson block") == "move the crimson block near the blue ball"


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
        ({"split": "relation", "blocks": (1, 1)}, "split relation needs two blocks"),
        ({"split": "symbol", "tasks": ("pick",)}, "tasks of the split symbol: expected .*side"),
    ],
)
def test_options_without_a_scene_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        scene.sample(np.random.default_rng(0), **options)
