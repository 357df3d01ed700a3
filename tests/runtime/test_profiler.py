import jax
import jax.numpy as jnp
import pytest

from vla_jax.core.errors import UserError
from vla_jax.runtime.profiler import Profiler, ProfilerConfig


def take(directory, config, *, steps, done=0):
    add = jax.jit(lambda x, y: (x + y, x))
    with Profiler(add, config, directory, done) as step:
        x = jnp.zeros(())
        for _ in range(steps):
            x, _ = step(x, 1.0)
    return float(x)


def traces(directory):
    return list(directory.rglob("*.xplane.pb"))


def test_the_chosen_steps_are_traced_under_their_numbers(tmp_path, capsys):
    assert take(tmp_path, ProfilerConfig(first=13, steps=2), steps=6, done=10) == 6
    (trace,) = traces(tmp_path)
    assert "steps 13 to 14" in capsys.readouterr().out
    numbers = {
        stat[1]
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
        for stat in event.stats
        if stat[0] == "step_num"
    }
    assert numbers == {13, 14}


def test_a_run_that_ends_within_the_trace_writes_it(tmp_path):
    take(tmp_path, ProfilerConfig(first=2, steps=100), steps=3)
    assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize("config", [ProfilerConfig(), ProfilerConfig(first=9)])
def test_nothing_is_traced_unless_its_step_comes(tmp_path, config):
    assert take(tmp_path, config, steps=3) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["first", "steps"])
def test_counts_are_positive(field):
    with pytest.raises(UserError, match=rf"ProfilerConfig\.{field}: expected 1\.\.\d+, found 0"):
        ProfilerConfig(**{field: 0})
