"""The expert says what it is about to do, stage by stage."""

import dataclasses

import numpy as np

from vla_jax.envs.tabletop import datasets, demonstrations, expert, scene
from vla_jax.envs.tabletop.datasets import DatasetsConfig
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.scene import TARGET
from vla_jax.tokens.tokenizer import Tokenizer

CONFIG = DemonstrationsConfig(episodes=4, tasks=("two_stage",), blocks=(2, 3), plans=True)


def test_a_plan_is_the_present_stage():
    for seed in range(20):
        current = scene.sample(np.random.default_rng(seed), tasks=("two_stage",), blocks=(2, 3))
        target, reference = (block.name for block in current.blocks[:2])
        first = f"move {target} {current.direction}"
        said = []
        while not current.is_goal():
            was_there = current.is_at_side()
            said.append(expert.plan(current))
            assert said[-1] == (f"pick {reference}" if was_there else first)
            current.step(expert.scene_action(current))
        assert list(dict.fromkeys(said)) == [first, f"pick {reference}"]


def test_every_task_has_a_plan():
    for task, words in {"pick": 3, "side": 4, "near": 6, "stack": 6}.items():
        current = scene.sample(np.random.default_rng(0), tasks=(task,), blocks=(2, 3))
        plan = expert.plan(current)
        assert len(plan.split()) == words
        assert current.blocks[TARGET].name in plan


def test_demonstrations_have_plans_if_they_are_asked_for():
    with_plans, without = (
        demonstrations.episode(dataclasses.replace(CONFIG, plans=plans), 16, 0, 0)
        for plans in (True, False)
    )
    said = [step.pop("plan") for step in with_plans["steps"]]
    assert len(set(said)) == 2
    for step, other in zip(with_plans["steps"], without["steps"], strict=True):
        assert "plan" not in other
        np.testing.assert_array_equal(step["action"], other["action"])
        assert step["observation"]["image"] == other["observation"]["image"]


def test_data_without_plans_lies_where_it_lay(tmp_path):
    config = DatasetsConfig(demonstrations=dataclasses.replace(CONFIG, plans=False))
    before = dataclasses.asdict(config.demonstrations)
    del before["plans"]
    place = datasets._hash({"image_size": 64, "seed": 0} | before)
    assert datasets.directories(config, tmp_path).robot.parent.name == place
    other = datasets.directories(DatasetsConfig(demonstrations=CONFIG), tmp_path)
    assert other.robot.parent.name != place


def test_plans_of_the_planning_study_fit_its_slots():
    rng = np.random.default_rng(0)
    scenes = [
        scene.sample(rng, tasks=("pick", "side", "two_stage"), blocks=(1, 3)) for _ in range(3000)
    ]
    plans = {expert.plan(current) for current in scenes}
    tokenizer = Tokenizer.train(
        {"Plan:", "Action:", *plans, *(current.instruction for current in scenes)}, 1024, 256
    )
    assert max(len(tokenizer.encode(plan)) for plan in plans) <= 6
    assert len(tokenizer.encode("Plan:")) == len(tokenizer.encode("Action:")) == 1
