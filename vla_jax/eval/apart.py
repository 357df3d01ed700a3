"""An environment in a process of its own, so that slow simulators run side by side."""

import multiprocessing
import multiprocessing.connection
import signal
import traceback
from collections.abc import Callable
from typing import Any

import gymnasium

from vla_jax.core.errors import UserError


class Apart(gymnasium.Env):
    """Passes on what it is told, and waits for the answer.

    Args:
      make: builds the environment over there; must pickle.

    Raises:
      UserError: `make` raised it.
      RuntimeError: anything else went wrong over there, then or later.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]):
        # A fresh interpreter: a copy of this one would have copies of its threads' locks.
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make), daemon=True)
        self._process.start()
        there.close()
        self.action_space = self._ask("action_space")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        return self._ask("reset", seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Executes one command."""
        return self._ask("step", action)

    def render(self) -> Any:
        """Returns a picture."""
        return self._ask("render")

    def close(self) -> None:
        """Ends the process, which ends by itself should this one die."""
        self._here.close()
        self._process.join(timeout=10)
        self._process.kill()

    def _ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            self._here.send((name, args, kwargs))
            failure, answer = self._here.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=10)
            raise RuntimeError(
                f"the process of an environment died (exit code {self._process.exitcode})"
            ) from error
        if failure is not None:
            raise failure(answer)
        return answer


def _serve(there: multiprocessing.connection.Connection, make: Callable[[], gymnasium.Env]) -> None:
    """Answers until the other end closes."""
    # Ctrl-C reaches the whole process group; the parent decides what happens to the children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    env = None
    while True:
        try:
            name, args, kwargs = there.recv()
        except EOFError:
            break
        try:
            env = make() if env is None else env
            found = getattr(env, name)
            there.send((None, found(*args, **kwargs) if callable(found) else found))
        except UserError as error:
            there.send((UserError, str(error).removesuffix(".")))
        except Exception:
            there.send(
                (RuntimeError, f"in the process of an environment:\n{traceback.format_exc()}")
            )
    if env is not None:
        env.close()
