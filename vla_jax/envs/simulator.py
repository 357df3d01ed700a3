"""What environments share whose episodes a simulator plays that is not ours."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import gymnasium
import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.core.errors import UserError, nearest


class Simulation(Protocol):
    """What plays an episode."""

    def close(self) -> None:
        """Frees it."""
        ...


S = TypeVar("S", bound=Simulation)


class SimulatorEnv(gymnasium.Env[dict[str, Any], np.ndarray], Generic[S]):
    """Holds the simulation of the episode; a subclass starts it in `reset`.

    Args:
      name: of the environment, for messages.
      spec: the actions it takes, in real units.
      observations: the space of each observation, by name.
      render_mode: None or "rgb_array".
    """

    def __init__(
        self,
        name: str,
        spec: ActionSpec,
        observations: Mapping[str, gymnasium.Space],
        render_mode: str | None,
    ):
        self._name = name
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Dict(dict(observations))
        self.action_space = gymnasium.spaces.Box(
            np.array(spec.low, np.float32), np.array(spec.high, np.float32)
        )
        self._simulation: S | None = None

    @property
    def simulation(self) -> S:
        """The running episode; `reset` starts one."""
        if self._simulation is None:
            raise gymnasium.error.ResetNeeded(f"call reset() before using {self._name}")
        return self._simulation

    def close(self) -> None:
        """Frees the simulator, and what draws."""
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    def _choose(
        self, given: Mapping[str, Any] | None, values: Mapping[str, Sequence[Any]]
    ) -> tuple[Any, ...]:
        """Returns the value of each option: the given one, or one drawn.

        Args:
          given: the options of a reset.
          values: of each option that there is; one with a number of values takes it as an int.

        Raises:
          UserError: an unknown option, or a value that is none of its.
        """
        given = given or {}
        for option in sorted(set(given) - set(values)):
            *others, last = values
            expected = f"{', '.join(others)} or {last}" if others else last
            raise UserError(f"{self._name} reset option {option!r}", expected=expected)
        # Drawn whether it is needed or not: a given option does not change what the others are.
        drawn = {k: every[int(self.np_random.integers(len(every)))] for k, every in values.items()}
        chosen = drawn | dict(given)
        for option, every in values.items():
            if chosen[option] not in every:
                names = list(map(str, every))
                numbers = isinstance(every, range)
                raise UserError(
                    f"{self._name} {option} {chosen[option]!r}",
                    expected=f"{names[0]}..{names[-1]}" if numbers else ", ".join(names),
                    fix=None if numbers else nearest(str(chosen[option]), names),
                )
        return tuple(chosen[option] for option in values)
