"""The packages that read other formats; each is imported only when its format is asked for."""

import importlib
from typing import Any

from vla_jax.core.errors import UserError


def load(module: str, purpose: str) -> Any:
    """Imports a package of the `ingest` extra.

    Args:
      module: what to import.
      purpose: what it reads, for the message.

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
            fix="Install it: pip install 'vla_jax[ingest]'",
        ) from error
