"""The explicit table of evaluation environments: one file each, one line here.

The files import no simulator before `make` is called.
"""

from vla_jax.core.errors import UserError, nearest
from vla_jax.envs.environment import Environment
from vla_jax.envs.language_table import protocol as language_table
from vla_jax.envs.libero import protocol as libero
from vla_jax.envs.metaworld import protocol as metaworld
from vla_jax.envs.tabletop import protocol as tabletop

_ALL = (
    tabletop.ENVIRONMENT,
    metaworld.ENVIRONMENT,
    language_table.ENVIRONMENT,
    libero.ENVIRONMENT,
)

ENVIRONMENTS: dict[str, Environment] = {environment.name: environment for environment in _ALL}


def find(name: str) -> Environment:
    """Returns the environment of a name.

    Raises:
      UserError: there is none.
    """
    if name not in ENVIRONMENTS:
        raise UserError(
            f"environment {name!r}: not in the table of environments",
            expected=f"one of {', '.join(ENVIRONMENTS)}",
            fix=nearest(name, list(ENVIRONMENTS)) or "CONTRIBUTING.md says how to add one",
        )
    return ENVIRONMENTS[name]
