"""Packages that only some uses need; each is imported when it is asked for."""

import importlib
from typing import Any

from vla_jax.core.errors import UserError


def load(
    module: str, purpose: str, *, fix: str = "Install it: pip install 'vla_jax[ingest]'"
) -> Any:
    """Imports a package.

    Args:
      module: what to import.
      purpose: what needs it, for the message.
      fix: how to install it, for the message.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"{purpose} needs the package {package}",
            expected=f"an installed {package}",
            found=error,
            fix=fix,
        ) from error
