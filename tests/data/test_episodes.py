import dataclasses

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.episodes import Episodes
from vla_jax.data.robots.tabletop import TABLETOP


def episodes_of(part):
    return {part.frame(i).episode for i in range(len(part))}


def test_the_parts_share_no_episode_and_leave_none_out(open_episodes):
    train, held_out = (episodes_of(open_episodes(part)) for part in ("train", "held_out"))
    assert not train & held_out
    assert train | held_out == set(range(24))
    assert len(held_out) == 6


def test_the_split_is_stable_and_spread(open_episodes):
    held_out = sorted(episodes_of(open_episodes("held_out")))
    assert held_out == sorted(episodes_of(open_episodes("held_out")))
    assert np.diff(held_out).tolist() == [4] * 5


def test_statistics_are_of_the_training_episodes_only(open_episodes):
    train, held_out = open_episodes("train"), open_episodes("held_out")
    actions = np.concatenate([train.frame(i).action for i in range(len(train))])
    found = train.statistics()
    assert found.count == len(train) == len(actions)
    np.testing.assert_allclose(found.mean, actions.mean(0), atol=1e-6)
    assert found != held_out.statistics()


def test_frames_are_whole(open_episodes):
    part = open_episodes("train")
    for i in (0, len(part) // 2, len(part) - 1):
        frame = part.frame(i)
        assert list(frame.images) == ["primary"]
        assert frame.images["primary"].shape == (32, 32, 3)
        assert frame.images["primary"].dtype == np.uint8
        assert frame.action.shape == (1, 8)
        assert frame.action.dtype == np.float32
        assert frame.dataset == "tabletop"
        assert frame.suffix is None
        assert len(frame.prefix.split()) > 2
    texts = list(part.texts())
    assert len(texts) == len(part)
    assert texts[3] == part.frame(3).prefix


def test_an_episode_ends_with_terminate(open_episodes):
    part = open_episodes("train")
    frames = [part.frame(i) for i in range(len(part))]
    last = {frame.episode: frame for frame in frames}
    assert {float(frame.action[0, 0]) for frame in last.values()} == {1.0}
    assert sum(frame.action[0, 0] for frame in frames) == len(last)


def test_images_are_resized(open_episodes):
    assert open_episodes("train", image_size=20).frame(0).images["primary"].shape == (20, 20, 3)


@pytest.mark.parametrize(("part", "share"), [("held_out", 0.0), ("held_out", 0.02)])
def test_an_empty_part_is_refused_with_the_field(open_episodes, part, share):
    with pytest.raises(UserError, match=r"no episode in the part 'held_out'.*loader\.held_out"):
        open_episodes(part, held_out=share)


def test_everything_may_be_trained_on(open_episodes):
    assert episodes_of(open_episodes("train", held_out=0.0)) == set(range(24))


def test_an_action_of_another_size_is_refused(made):
    spec = TABLETOP.spec
    smaller = dataclasses.replace(
        spec,
        **{name: getattr(spec, name)[:7] for name in ("names", "units", "low", "high", "discrete")},
    )
    robot = dataclasses.replace(TABLETOP, spec=smaller)
    with pytest.raises(UserError, match=r"'steps/action': expected 7 action dimensions.*found 8"):
        Episodes(made.robot, robot, part="train", held_out=0.1, image_size=32)
