import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.train import loop
from vla_jax.train.loop import Clock, Hook, LoopConfig
from vla_jax.train.state import TrainState


class Run:
    """A loop around a step that only counts: the loss of step n is 1 / n."""

    def __init__(self, *, start=0, losses=None, stop_at=None, hooks=(), **config):
        self.logged, self.shown, self.called, self.placed = {}, [], [], []
        self.losses = losses or {}
        self.taken = start
        self.hooks = [
            Hook(every=every, call=lambda n, state, i=i: self.hook(i, n, state))
            for i, every in enumerate(hooks)
        ]
        self.state = loop.run(
            TrainState(step=jnp.int32(start), params={"w": jnp.float32(start)}, optimizer={}),
            self.step,
            iter(range(start, 1000)),
            LoopConfig(**config),
            place=lambda batch: batch + 100,
            sources=("robot", "web"),
            hooks=self.hooks,
            log=lambda n, values: self.logged.update({n: dict(values)}),
            tick=lambda shown: self.shown.append(dict(shown)),
            stop=lambda: self.taken == stop_at,
            clock=Clock(),
        )

    def step(self, state, batch):
        self.placed.append(batch)
        self.taken = n = int(state.step) + 1
        loss = self.losses.get(n, 1 / n)
        sums = {
            "loss": np.array([2 * loss, 0]),
            "correct": np.array([n, 0]),
            "tokens": np.array([10, 0]),
            "examples": np.array([2, 0]),
        }
        state = TrainState(step=state.step + 1, params=state.params, optimizer={})
        return state, {"loss": loss, "gradient_norm": 2.0, "sums": sums}

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


def test_metrics_are_means_since_the_last_line():
    run = Run(steps=5, log_every=2)
    assert list(run.logged) == [2, 4, 5]
    assert [values["steps_averaged"] for values in run.logged.values()] == [2, 2, 1]
    assert run.logged[4]["loss"] == 1 / 4  # of the step itself
    assert run.logged[4]["loss/robot"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert run.logged[4]["accuracy/robot"] == pytest.approx(7 / 20)
    assert "loss/web" not in run.logged[4]
    assert run.logged[4]["gradient_norm"] == 2
    assert 0 <= run.logged[2]["seconds"] <= run.logged[5]["seconds"] < 60


def test_the_display_keeps_the_last_values():
    run = Run(steps=4, log_every=2, hooks=(3,))
    assert run.shown == [
        {},
        {"loss": 1 / 2},
        {"loss": 1 / 2, "hook0": 3.0},
        {"loss": 1 / 4, "hook0": 4.0},
    ]


def test_stopping_logs_and_calls_every_hook_at_that_step():
    run = Run(steps=100, log_every=50, hooks=(50, 70), stop_at=3)
    assert int(run.state.step) == 3
    assert run.called == [(0, 3), (1, 3)]
    assert list(run.logged) == [3]
    assert len(run.shown) == 3


def test_a_resumed_run_goes_on_counting():
    run = Run(start=4, steps=7, log_every=3, hooks=(3,))
    assert int(run.state.step) == 7
    assert run.placed == [104, 105, 106]
    assert run.called == [(0, 6), (0, 7)]
    assert {n: values["steps_averaged"] for n, values in run.logged.items()} == {6: 2, 7: 1}


def test_a_finished_run_does_nothing():
    run = Run(start=7, steps=7, hooks=(1,))
    assert (run.placed, run.called, run.logged) == ([], [], {})


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_with_its_step(loss):
    with pytest.raises(UserError, match=rf"step 4: the loss is {loss}.*learning_rate"):
        Run(steps=10, log_every=2, losses={4: loss})


def test_a_hook_never_sees_the_state_behind_a_loss_that_is_not_finite():
    # Else a checkpoint between two lines of metrics would keep a ruined state.
    with pytest.raises(UserError, match="step 3: the loss is nan"):
        Run(steps=10, log_every=100, hooks=(3,), losses={3: float("nan")})


@pytest.mark.parametrize("name", ["steps", "log_every", "eval_every"])
def test_counts_are_positive(name):
    with pytest.raises(UserError, match=rf"config\.loop\.{name}: expected >= 1, found 0"):
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

    assert Slow(steps=4, log_every=4, hooks=(1,)).logged[4]["seconds"] == 4
