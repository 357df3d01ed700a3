import dataclasses
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.train import loop
from vla_jax.train.loop import Clock, Feed, Hook, LoopConfig
from vla_jax.train.state import TrainState
from vla_jax.train.window import Window


class Run:
    """A loop around a step that only counts: the loss of step n is 1 / n."""

    def __init__(
        self, *, start=0, losses=None, stop_at=None, hooks=(), at_end=True, window=None, **config
    ):
        self.logged, self.shown, self.called, self.placed, self.failed = {}, [], [], [], []
        self.losses = losses or {}
        self.taken = start
        self.window, self.clock = window or Window(), Clock()
        self.feed = Feed(iter(range(start, 1000)), lambda batch: batch + 100)
        self.state = loop.run(
            TrainState(step=jnp.int32(start), params={"w": jnp.float32(start)}, optimizer={}),
            self.step,
            self.feed,
            LoopConfig(**config),
            window=self.window,
            hooks=[
                Hook(
                    every=every,
                    call=lambda n, state, i=i: self.hook(i, n, state),
                    at_end=at_end,
                )
                for i, every in enumerate(hooks)
            ],
            log=self.log,
            tick=lambda shown: self.shown.append(dict(shown)),
            stop=lambda n: n == stop_at,
            on_nonfinite=self.on_nonfinite,
            clock=self.clock,
        )

    def step(self, state, batch):
        self.placed.append(batch)
        self.taken = n = int(state.step) + 1
        loss = self.losses.get(n, 1 / n)
        metrics = {
            "loss": np.float32(loss),
            "gradient_norm": np.float32(2),
            "finite": np.isfinite(loss),
            "example_loss": np.array([loss, 0.0]),
            "sums": {"loss": np.array([loss, 0], np.float32), "examples": np.array([2, 0])},
        }
        return dataclasses.replace(state, step=state.step + 1), metrics

    def log(self, n):
        sums = {name: values.tolist() for name, values in self.window.sums.items()}
        self.logged[n] = {**self.window.last, "steps": self.window.steps, **sums}
        return {"loss": self.window.last["loss"]} if self.window.last else {}

    def on_nonfinite(self, failed):
        self.failed.append(failed)

    def hook(self, i, n, state):
        assert int(state.step) == n
        self.called.append((i, n))
        return {f"hook{i}": float(n)}


def test_every_step_takes_the_next_batch_once_it_is_placed():
    run = Run(steps=5, log_every=2)
    assert int(run.state.step) == 5
    assert run.placed == [100, 101, 102, 103, 104]
    assert len(run.shown) == 5


def test_hooks_are_called_when_due_and_after_the_last_step():
    run = Run(steps=7, log_every=10, hooks=(3, 2))
    assert run.called == [(1, 2), (0, 3), (1, 4), (0, 6), (1, 6), (0, 7), (1, 7)]


def test_a_hook_due_at_the_last_step_is_called_once():
    assert Run(steps=6, log_every=10, hooks=(3,)).called == [(0, 3), (0, 6)]


def test_a_hook_that_is_not_for_the_end_is_left_out_there():
    assert Run(steps=6, log_every=10, hooks=(3,), at_end=False).called == [(0, 3)]
    assert Run(steps=9, log_every=10, hooks=(3,), at_end=False, stop_at=6).called == [(0, 3)]


def test_a_line_is_about_the_steps_since_the_last_one():
    run = Run(steps=5, log_every=2)
    assert list(run.logged) == [2, 4, 5]
    assert [line["steps"] for line in run.logged.values()] == [2, 2, 1]
    assert run.logged[4]["loss"] == pytest.approx([1 / 3 + 1 / 4, 0])
    assert run.logged[4]["examples"] == [4, 0]
    assert run.logged[4]["gradient_norm"] == 2


def test_the_display_keeps_the_last_values():
    run = Run(steps=4, log_every=2, hooks=(3,))
    assert run.shown == [
        {},
        {"loss": 1 / 2},
        {"loss": 1 / 2, "hook0": 3.0},
        {"loss": 1 / 4, "hook0": 4.0},
    ]


def test_stopping_calls_every_hook_at_that_step_and_writes_no_line_of_its_own():
    run = Run(steps=100, log_every=50, hooks=(50, 70), stop_at=3)
    assert int(run.state.step) == 3
    assert run.called == [(0, 3), (1, 3)]
    assert run.logged == {}
    assert run.window.steps == 3
    assert len(run.shown) == 3


@pytest.mark.parametrize("stop_at", range(1, 9))
def test_lines_are_the_same_wherever_the_run_was_stopped(stop_at):
    whole = Run(steps=9, log_every=4)
    first = Run(steps=9, log_every=4, stop_at=stop_at)
    saved = json.loads(json.dumps(first.window.state()))
    second = Run(steps=9, log_every=4, start=stop_at, window=Window(saved))
    assert first.logged | second.logged == whole.logged
    assert not first.logged.keys() & second.logged.keys()


def test_a_resumed_run_goes_on_counting():
    run = Run(start=4, steps=7, log_every=3, hooks=(3,))
    assert int(run.state.step) == 7
    assert run.placed == [104, 105, 106]
    assert run.called == [(0, 6), (0, 7)]
    assert list(run.logged) == [6, 7]


def test_a_finished_run_does_nothing():
    run = Run(start=7, steps=7, hooks=(1,))
    assert (run.placed, run.called, run.logged) == ([], [], {})


class StopError(Exception):
    """Stands for what ends a run whose loss is no number."""


class Strict(Run):
    def on_nonfinite(self, failed):
        raise StopError(failed.step, failed.loss)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_the_first_step_that_is_not_finite_is_told(loss):
    with pytest.raises(StopError, match=rf"\(3, {loss}\)"):
        Strict(steps=10, log_every=5, losses={3: loss, 4: loss})


def test_a_hook_never_sees_the_state_behind_a_step_that_is_not_finite():
    # Else a checkpoint between two lines of metrics would keep a ruined state.
    with pytest.raises(StopError, match=r"\(3, nan\)"):
        Strict(steps=10, log_every=100, hooks=(4,), losses={3: float("nan")})


def test_a_step_that_was_skipped_is_in_no_mean():
    run = Run(steps=6, log_every=3, losses={2: float("nan"), 6: float("inf")})
    assert [(failed.step, failed.example_loss.shape) for failed in run.failed] == [
        (2, (2,)),
        (6, (2,)),
    ]
    assert run.logged[3]["steps"] == 2
    assert run.logged[3]["loss"] == pytest.approx([1 + 1 / 3, 0])
    assert run.logged[6]["loss"] == pytest.approx([1 / 4 + 1 / 5, 0])


def test_a_line_about_nothing_but_skipped_steps_has_no_loss():
    run = Run(steps=2, log_every=1, losses={2: float("nan")})
    assert run.logged[2] == {"steps": 0}


@pytest.mark.parametrize("name", ["steps", "log_every", "eval_every"])
def test_counts_are_positive(name):
    with pytest.raises(UserError, match=rf"LoopConfig\.{name}: expected 1\.\.\d+, found 0"):
        LoopConfig(**{name: 0})


def test_the_clock_counts_only_while_it_runs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    clock = Clock(7.0)
    now[0] += 5
    assert clock.seconds() == 7
    clock.resume()
    now[0] += 2
    assert clock.seconds() == 9
    clock.pause()
    now[0] += 50
    assert clock.seconds() == 9
    clock.pause()
    clock.resume()
    now[0] += 1
    clock.pause()
    assert clock.seconds() == 10


def test_hooks_do_not_count_as_training_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    class Slow(Run):
        def step(self, state, batch):
            now[0] += 1
            return super().step(state, batch)

        def hook(self, i, n, state):
            now[0] += 1000
            return super().hook(i, n, state)

    run = Slow(steps=4, log_every=4, hooks=(1,))
    assert now[0] == 4004
    assert run.clock.seconds() == 4


def test_waiting_for_data_is_counted_and_placing_is_not():
    def slow():
        for k in range(3):
            time.sleep(0.02)
            yield k

    feed = Feed(slow(), lambda batch: time.sleep(0.2) or batch)
    assert [feed.take() for _ in range(3)] == [0, 1, 2]
    assert 0.06 <= feed.waited < 0.2
