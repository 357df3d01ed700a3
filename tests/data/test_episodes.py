import dataclasses
import os

import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.core.errors import UserError
from vla_jax.data import index_files, standard
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.episodes import Episodes
from vla_jax.data.loader import Loader
from vla_jax.data.robots.tabletop import TABLETOP


def examples(part):
    return [part.example(i) for i in range(len(part))]


def episodes_of(part):
    return {example.episode for example in examples(part)}


def robot(**changes):
    return dataclasses.replace(TABLETOP, **changes)


def test_the_parts_share_no_episode_and_leave_none_out(open_episodes):
    train, held_out = (episodes_of(open_episodes(part)) for part in ("train", "held_out"))
    assert not train & held_out
    assert train | held_out == set(range(24)) == episodes_of(open_episodes("all"))
    assert len(held_out) == open_episodes("held_out").episodes == 6


def test_the_split_is_stable_and_spread(open_episodes):
    held_out = sorted(episodes_of(open_episodes("held_out")))
    assert held_out == sorted(episodes_of(open_episodes("held_out")))
    assert np.diff(held_out).tolist() == [4] * 5


def test_a_run_of_episodes_is_divided_by_itself(open_episodes):
    chosen = range(10, 18)
    train = episodes_of(open_episodes("train", episodes=chosen))
    held_out = episodes_of(open_episodes("held_out", episodes=chosen))
    assert (len(train), len(held_out)) == (6, 2)
    assert train | held_out == set(chosen)


def test_examples_are_whole_and_in_file_order(open_episodes, tabletop_index):
    part = open_episodes("all")
    assert len(part) == len(tabletop_index)
    for k, example in enumerate(examples(part)):
        assert example.images == {
            "primary": (tabletop_index.image_bytes("steps/observation/image", k),)
        }
        assert (example.episode, example.t) == (tabletop_index.episode[k], tabletop_index.t[k])
        np.testing.assert_array_equal(example.action, tabletop_index.array("steps/action")[k][None])
        assert example.action.dtype == np.float32
        assert example.action_mask.tolist() == [True]
        assert example.prefix == tabletop_index.text("steps/language_instruction", k)
        assert (example.dataset, example.suffix, example.state) == ("tabletop", None, None)


def test_a_source_may_have_another_name_than_its_adapter(open_episodes):
    part = open_episodes(name="mine")
    assert part.name == part.example(0).dataset == "mine"


def test_a_chunk_ends_with_its_episode(open_episodes, tabletop_index):
    actions = tabletop_index.array("steps/action")
    starts = tabletop_index.starts
    for k, example in enumerate(examples(open_episodes("all", chunk=3))):
        end = starts[example.episode + 1]
        wanted = [actions[min(step, end - 1)] for step in range(k, k + 3)]
        np.testing.assert_array_equal(example.action, np.stack(wanted))
        assert example.action_mask.tolist() == [step < end for step in range(k, k + 3)]


def test_history_is_empty_before_the_episode(open_episodes, tabletop_index):
    for k, example in enumerate(examples(open_episodes("all", history=3))):
        wanted = [
            tabletop_index.image_bytes("steps/observation/image", step)
            if step >= k - example.t
            else None
            for step in range(k - 2, k + 1)
        ]
        assert list(example.images["primary"]) == wanted


def test_views_that_the_robot_lacks_are_absent(open_episodes):
    part = open_episodes(views=("wrist", "primary"))
    assert list(part.example(0).images) == ["primary"]
    with pytest.raises(UserError, match=r"tabletop: config\.loader\.views wrist.*primary"):
        open_episodes(views=("wrist",))


def test_two_views_are_both_there(open_episodes):
    feature = TABLETOP.images["primary"]
    both = robot(images={"primary": feature, "wrist": feature})
    assert list(open_episodes(robot=both, views=("primary", "wrist")).example(0).images) == [
        "primary",
        "wrist",
    ]


def test_statistics_are_of_these_frames_only(open_episodes):
    train = open_episodes("train")
    actions = np.concatenate([example.action for example in examples(train)])
    assert train.statistics() == Statistics.of(actions)
    assert train.statistics().count == len(train)
    assert train.statistics() != open_episodes("held_out").statistics()
    assert train.state_statistics() is None


def test_the_state_comes_with_its_statistics(open_episodes):
    part = open_episodes(
        robot=robot(state=lambda c: c["steps/action"][:, 1:3] * 2, state_names=("x (m)", "y (m)"))
    )
    assert part.state_size == 2
    states = np.stack([example.state for example in examples(part)])
    actions = np.concatenate([example.action for example in examples(part)])
    np.testing.assert_array_equal(states, actions[:, 1:3] * 2)
    assert part.state_statistics() == Statistics.of(states)


def test_steps_that_the_adapter_drops_are_no_examples(open_episodes):
    def keep(columns):
        return ~columns.first

    whole, part = open_episodes("all"), open_episodes("all", robot=robot(keep=keep))
    assert len(part) == len(whole) - 24
    assert min(example.t for example in examples(part)) == 1
    assert part.dropped["not kept by the adapter"] == 24
    assert part.statistics().count == len(part)


def test_a_chunk_is_masked_where_a_step_is_dropped(open_episodes):
    part = open_episodes("all", robot=robot(keep=lambda columns: ~columns.last), chunk=2)
    masks = {example.t: example.action_mask.tolist() for example in examples(part)[:50]}
    assert masks[0] == [True, True]
    assert any(mask == [True, False] for mask in masks.values())


class Wordings:
    """An index whose instructions come in two wordings, the first missing in odd episodes."""

    def __init__(self, index, folder, fingerprint="two wordings", missing="odd"):
        self._index, self.folder, self._missing = index, folder, missing
        self.fingerprint = fingerprint

    def __getattr__(self, name):
        return getattr(self._index, name)

    def __len__(self):
        return len(self._index)

    def load(self, part):
        return index_files.load(self.folder / part)

    def distinct_texts(self, name):
        return ["", f"{name} wording"]

    def text_ids(self, name):
        if name == "second" and self._missing == "odd":
            return np.ones(len(self), int)
        return (np.asarray(self._index.episode) % 2 == 0).astype(int)


def test_a_wording_is_drawn_among_those_that_are_there(tabletop_index, tmp_path):
    index = Wordings(tabletop_index, tmp_path)
    part = Episodes(index, robot(instruction=("first", "second")), part="all")
    for i in range(0, len(part), 5):
        drawn = {part.example(i, draw).prefix for draw in range(6)}
        odd = part.example(i).episode % 2
        assert drawn == ({"second wording"} if odd else {"first wording", "second wording"})
    assert part.texts() == ["first wording", "second wording"]


def test_steps_without_an_instruction_are_dropped_and_counted(tabletop_index, tmp_path):
    index = Wordings(tabletop_index, tmp_path, missing="all")
    part = Episodes(index, robot(instruction=("first", "second")), part="all")
    odd = int((np.asarray(tabletop_index.episode) % 2).sum())
    assert part.dropped["without an instruction"] == odd == len(tabletop_index) - len(part)
    assert {episode % 2 for episode in episodes_of(part)} == {0}


def test_texts_are_those_of_the_part(open_episodes):
    part = open_episodes("train")
    assert part.texts() == sorted({example.prefix for example in examples(part)})


def test_opening_again_computes_nothing(open_episodes):
    calls = []

    def action(columns):
        calls.append(len(columns.episode))
        return columns["steps/action"]

    one = open_episodes(robot=robot(action=action))
    assert calls
    calls.clear()
    two = open_episodes(robot=robot(action=action))
    assert not calls
    assert one.fingerprint == two.fingerprint
    np.testing.assert_array_equal(one.example(5).action, two.example(5).action)


def test_another_meaning_is_another_fingerprint(open_episodes):
    variants = [
        robot(),
        robot(action=lambda columns: columns["steps/action"] * np.array([1, *[2] * 6, 1])),
        robot(action=lambda columns: columns["steps/action"] * np.array([1, *[3] * 6, 1])),
        robot(keep=lambda columns: ~columns.last),
        robot(instruction=(*TABLETOP.instruction, *TABLETOP.instruction)),
    ]
    parts = [open_episodes(robot=variant) for variant in variants]
    parts += [open_episodes("held_out"), open_episodes(chunk=2), open_episodes(history=2)]
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert parts[2].example(0).action[0, 1] == pytest.approx(parts[0].example(0).action[0, 1] * 3)


def test_a_run_does_not_go_on_in_another_order_of_blocks(open_episodes):
    def opened(**sizes):
        blocks = BlocksConfig(**{"frames": 4, "budget": 100_000, "readahead": 1} | sizes)
        return open_episodes(blocks=blocks)

    def order(source):
        return source.shuffle(0, len(source), 5)[0].tolist()

    before = opened()
    state = {"next_batch": 3, "fingerprint": {before.name: before.fingerprint}}
    assert Loader.check(state, [opened(requests=2)]) == 3
    for other in (opened(frames=3), opened(budget=50_000), opened(readahead=4), open_episodes()):
        assert order(other) != order(before)
        with pytest.raises(UserError, match="tabletop: not what it was when this run began"):
            Loader.check(state, [other])


def test_pieces_give_what_the_whole_gives(tabletop_index, tmp_path, monkeypatch):
    def reached(columns):
        return columns.next(columns["steps/action"]) - columns["steps/action"]

    made = robot(action=reached, keep=lambda columns: columns.first | columns.last)
    found = []
    for size in (1, 40, 1 << 20):
        monkeypatch.setattr(standard, "_PIECE", size)
        index = Wordings(tabletop_index, tmp_path / str(size), fingerprint=size)
        found.append(standard.open_standard(index, made))
    for other in found[:2]:
        np.testing.assert_array_equal(other.action, found[2].action)
        np.testing.assert_array_equal(other.keep, found[2].keep)


@pytest.mark.parametrize(("part", "share"), [("held_out", 0.0), ("held_out", 0.02)])
def test_an_empty_part_is_refused_with_the_field(open_episodes, part, share):
    with pytest.raises(UserError, match=r"no episode in the part 'held_out'.*loader\.held_out"):
        open_episodes(part, held_out=share)


def test_a_dataset_without_a_usable_step_is_refused_with_the_reasons(open_episodes):
    nothing = robot(keep=lambda columns: np.zeros(len(columns.episode), bool))
    with pytest.raises(UserError, match=r"no step to train on.*\d+ not kept by the adapter"):
        open_episodes(robot=nothing)


def test_an_action_of_another_size_is_refused(open_episodes):
    smaller = robot(action=lambda columns: columns["steps/action"][:, :7])
    with pytest.raises(UserError, match=r"tabletop: action of its adapter.*8 dimensions.*, 7\]"):
        open_episodes(robot=smaller)


def test_an_adapter_that_fails_is_named_with_what_it_is_given(open_episodes):
    lost = robot(action=lambda columns: columns["steps/joints"])
    with pytest.raises(
        UserError, match=r"tabletop: action of its adapter.*KeyError 'steps/joints'.*steps/action"
    ):
        open_episodes(robot=lost)


def spoiled(columns):
    action = columns["steps/action"].copy()
    action[np.flatnonzero(columns.first)[3] + 2, 4] = np.nan
    return action


def test_an_action_that_is_no_number_is_named(open_episodes, tabletop_index):
    with pytest.raises(
        UserError,
        match=r"shard tabletop-train\S+ episode 3 step 2: action 'droll': expected a finite "
        r"number .*found nan.*on_corrupt=skip",
    ):
        open_episodes("all", robot=robot(action=spoiled))
    leftover = [name for name in os.listdir(tabletop_index.folder) if name.startswith(".")]
    assert not leftover
    part = open_episodes("all", robot=robot(action=spoiled), on_corrupt="skip", chunk=4)
    assert all(np.isfinite(example.action).all() for example in examples(part))
    assert [flaw.kind for flaw in part.flaws] == ["value"]
    assert part.dropped["with an impossible number"] == 1


@pytest.mark.parametrize(
    ("dimension", "value", "meant"),
    [
        (0, 7.0, r"'terminate': expected an integer in 0\.\.1, found 7"),
        (1, 3e38, r"'dx': expected a finite number of at most 65504 .*, found 3e\+38"),
        (7, -9.0, r"'gripper': expected a number in 0\.\.1, found -9"),
        (7, np.inf, r"'gripper': .*found inf"),
    ],
)
def test_an_action_that_cannot_be_is_named_or_left_out(open_episodes, dimension, value, meant):
    def action(columns):
        values = np.array(columns["steps/action"])
        values[(columns.episode == 3) & (np.arange(len(values)) % 5 == 2), dimension] = value
        return values

    with pytest.raises(UserError, match=r"episode 3 step \d+: action " + meant):
        open_episodes("all", robot=robot(action=action))
    part = open_episodes("all", robot=robot(action=action), on_corrupt="skip")
    assert part.dropped["with an impossible number"] == len(part.flaws) > 1
    assert all(np.abs(example.action).max() < 5 for example in examples(part))


def test_an_action_that_is_no_number_may_be_dropped(open_episodes):
    def keep(columns):
        return np.isfinite(spoiled(columns)).all(axis=1)

    part = open_episodes("all", robot=robot(action=spoiled, keep=keep), chunk=4)
    assert all(np.isfinite(example.action).all() for example in examples(part))
    (row,) = [e for e in examples(part) if e.episode == 3 and e.t == 0]
    assert row.action_mask.tolist() == [True, True, False, True]
