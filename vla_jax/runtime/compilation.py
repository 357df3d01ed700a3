"""Compiled programs are kept on disk, so that the second start compiles nothing."""

import os
import pathlib

import jax


def use_cache() -> None:
    """Turns JAX's persistent compilation cache on, unless the user has chosen a place for it.

    The place is `$XDG_CACHE_HOME/vla_jax/compiled`, `~/.cache/vla_jax/compiled` by default;
    `JAX_COMPILATION_CACHE_DIR` overrides it.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "vla_jax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
