"""Compiled programs: kept on disk between runs, and no more than one per function in a run."""

import os
import pathlib
from typing import Any

import jax

from vla_jax.core import trees
from vla_jax.runtime import progress


def directory() -> pathlib.Path:
    """Returns where compiled programs are kept.

    `$XDG_CACHE_HOME/vla_jax/compiled`, `~/.cache/vla_jax/compiled` by default;
    `JAX_COMPILATION_CACHE_DIR` overrides it.
    """
    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return pathlib.Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "vla_jax" / "compiled"


def use_cache() -> None:
    """Turns JAX's persistent compilation cache on, in `directory()`."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # JAX reads it itself
    jax.config.update("jax_compilation_cache_dir", str(directory()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Watched:
    """Calls a jitted function and warns, with the cause, where it compiles a second time.

    Args:
      function: what `jax.jit` returned.
      name: how to call it in the warning.
    """

    def __init__(self, function: Any, name: str):
        self._function, self._name = function, name
        self._programs = 0
        self._inputs: dict[str, str] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Calls the function."""
        out = self._function(*inputs)
        # A look at a counter; the inputs are described only where there is something to say.
        programs = self._function._cache_size()
        if programs != self._programs:
            described = _described(inputs)
            if self._programs:
                progress.note(
                    f"warning: {self._name} was compiled again ({programs} programs now): "
                    + self._cause(described)
                )
            self._programs, self._inputs = programs, described
        return out

    def _cause(self, now: dict[str, str]) -> str:
        before = self._inputs
        changed = [
            f"{name} was {before.get(name, 'absent')}, is {now.get(name, 'absent')}"
            for name in (now | before)
            if now.get(name) != before.get(name)
        ]
        if not changed:
            return "no input changed; a global setting of JAX did"
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return "; ".join(changed[:3]) + more


def _described(inputs: tuple[Any, ...]) -> dict[str, str]:
    """Spells what a compiled program depends on, by leaf; donated arrays may be gone by now."""
    return {
        name: f"{leaf.dtype}{list(leaf.shape)}"
        + (" weakly typed" if getattr(leaf, "weak_type", False) else "")
        + (f" on {leaf.sharding}" if isinstance(leaf, jax.Array) else " on the host")
        for name, leaf in trees.named_leaves(inputs).items()
        if hasattr(leaf, "dtype")
    }
