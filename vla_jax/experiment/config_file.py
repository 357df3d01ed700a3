"""Config files: `FILE.py:variant` and fields set beside it -> RunConfig."""

import inspect
import os
from collections.abc import Sequence

from ml_collections import config_dict

from vla_jax.core import config as config_lib
from vla_jax.core import overrides, paths, user_code
from vla_jax.core.errors import UserError
from vla_jax.data.mixtures import MIXTURES
from vla_jax.experiment.config import RunConfig

_WANTED = "get_config() that returns a ConfigDict, as vla_jax.experiment.config.defaults() makes it"


def load(path: str | os.PathLike[str], fields: Sequence[tuple[str, str]] = ()) -> RunConfig:
    """Reads a config file and sets fields.

    Args:
      path: `FILE.py`, or `FILE.py:variant`, which is the argument of its `get_config`.
      fields: paths such as `config.optimizer.learning_rate` and the texts of their values; later
        ones win.

    Raises:
      UserError: the file is missing or fails, and where; a field or value is refused.
    """
    path = paths.expand(path)
    tree = _tree(path)
    for field, text in fields:
        overrides.apply(RunConfig, tree, field, text, _implied(tree))
    try:
        return config_lib.build(RunConfig, tree)
    except TypeError as error:  # of a FieldReference that cannot be computed
        raise UserError(f"config file {path}: {error}") from error


def _tree(path: str) -> config_dict.ConfigDict:
    file, colon, variant = path.partition(":")
    what = f"config file {file}"
    names = user_code.run_file(file, "config file")
    make = names.get("get_config")
    if not callable(make):
        found = "no get_config" if make is None else type(make).__name__
        raise UserError(what, expected=f"a function {_WANTED}", found=found)
    arguments = (variant,) if colon else ()
    with user_code.blamed(f"config file {path}: get_config", file):
        _check_variant(make, path, arguments)
        tree = make(*arguments)
    if not isinstance(tree, config_dict.ConfigDict):
        raise UserError(f"config file {path}", expected=_WANTED, found=type(tree).__name__)
    return tree


def _check_variant(make: object, path: str, arguments: tuple[str, ...]) -> None:
    """Refuses a variant of a file that has none, and a file that wants one."""
    try:
        inspect.signature(make).bind(*arguments)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(
            f"config file {path}",
            expected="a file alone, as its get_config takes no variant"
            if arguments
            else "FILE.py:variant, as its get_config asks for one",
            found=error,
        ) from error


def _implied(tree: config_dict.ConfigDict) -> overrides.Implied:
    """Returns what the robots of a named mixture have before a flag changes one of them."""
    mixture = tree.get("mixture")
    name = mixture.get("name") if isinstance(mixture, config_dict.ConfigDict) else None
    named = MIXTURES.get(name, {}) if isinstance(name, str) else {}
    return {"config.mixture.robots": {robot: {"weight": w} for robot, w in named.items()}}
