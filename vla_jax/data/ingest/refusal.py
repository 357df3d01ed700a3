"""What libraries raise for damaged files, turned into one line."""

import contextlib
from collections.abc import Iterator

from vla_jax.core.errors import UserError

AGAIN = "Fetch the file again"
_SAID = 200  # characters of a library's own words


@contextlib.contextmanager
def refusing(what: str, fix: str = AGAIN) -> Iterator[None]:
    """Turns any exception into a UserError: of damaged files libraries raise nearly anything.

    Args:
      what: the file or its part, and that it cannot be read.
      fix: what to do.

    Raises:
      UserError: something was raised; quotes it. One that is a UserError goes through.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:_SAID]
        raise UserError(f"{what} ({said})", fix=fix) from error
