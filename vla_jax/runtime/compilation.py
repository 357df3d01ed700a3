"""Compiled programs are kept on disk, so that the second start compiles nothing."""

import os
import pathlib

import jax


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
