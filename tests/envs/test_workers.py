"""Child processes for generation: order, errors, early ends."""

import operator
import os

import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs import workers
from vla_jax.envs.tabletop import demonstrations, questions
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.questions import QuestionsConfig


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_calls(count):
    calls = [(number, 2) for number in range(40)]
    results = list(workers.map_ordered(operator.mul, calls, workers=count))
    assert results == [2 * number for number in range(40)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_user_error_arrives_as_one(count):
    impossible = DemonstrationsConfig(tasks=("side",), max_steps=1)
    calls = [(impossible, 64, 0, 0, 1)]
    with pytest.raises(UserError, match=r"episode 0: .* within 1 steps\. Raise max_steps"):
        list(workers.map_ordered(demonstrations.episodes, calls, workers=count))


def test_another_error_shows_the_traceback_of_the_worker():
    calls = [(QuestionsConfig(), 64, 0, "no such split", 0, 1)]
    with pytest.raises(RuntimeError, match=r"(?s)worker:.*Traceback.*KeyError: 'no such split'"):
        list(workers.map_ordered(questions.questions, calls, workers=2))


def test_a_worker_that_dies_is_reported():
    with pytest.raises(RuntimeError, match="worker died"):
        list(workers.map_ordered(os._exit, [(3,)], workers=2))


def test_closing_early_ends_the_workers(monkeypatch):
    started = []
    start = workers._start
    monkeypatch.setattr(workers, "_start", lambda: started.append(start()) or started[-1])
    results = workers.map_ordered(operator.mul, ((n, 2) for n in range(10**9)), workers=2)
    assert next(results) == 0
    results.close()
    assert len(started) == 2
    assert all(child.returncode is not None for child in started)
