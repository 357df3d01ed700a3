"""Python that a user wrote, run: a mistake in it is one line with its file, line and exception."""

import contextlib
import importlib
import os
import pathlib
import runpy
import traceback
from collections.abc import Iterator
from typing import Any

from vla_jax.core import errors, paths
from vla_jax.core.errors import UserError


def run_file(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Runs a Python file.

    Args:
      path: the file; `~` is the home directory.
      what: what it is, for messages, such as `config file`.

    Returns:
      Its names.

    Raises:
      UserError: there is no such file, or it fails.
    """
    file = pathlib.Path(paths.expand(path))
    named = f"{what} {os.fspath(path)}"
    try:
        is_file = file.is_file()
    except (OSError, ValueError) as error:  # a name too long, a null character
        raise UserError(f"{named}: {error}", expected="a Python file") from error
    if not is_file:
        folder = file.is_dir()
        near = errors.listed(sorted(file.parent.glob("*.py"))) if file.parent.is_dir() else ""
        raise UserError(
            named,
            expected="a Python file",
            found=f"{'a directory' if folder else 'no such file'}; Python files there: "
            f"{near or 'none'}",
        )
    with blamed(named, file):
        return runpy.run_path(str(file))


def load(name: str, what: str) -> Any:
    """Imports what `package.module:NAME` names.

    Args:
      name: the module as Python imports it, and a name in it.
      what: what it is, for messages, such as `robot`.

    Raises:
      UserError: no such module or name, or its import fails.
    """
    module_name, _, attribute = name.partition(":")
    named = f"{what} {name!r}"
    try:
        with blamed(f"{named}: the import of {module_name}"):
            module = importlib.import_module(module_name)
    except UserError as error:
        cause = error.__cause__
        absent = isinstance(cause, ModuleNotFoundError) and cause.name in _parents(module_name)
        if not absent and not isinstance(cause, ValueError | TypeError):  # of "" and ".x"
            raise
        raise UserError(
            f"{named}: {cause}",
            expected="a module that Python can import",
            fix="Install the package or add its folder to PYTHONPATH",
        ) from cause
    if not hasattr(module, attribute):
        raise UserError(
            f"{named}: the module {module_name} has no {attribute!r}",
            fix=errors.nearest(attribute, dir(module)),
        )
    return getattr(module, attribute)


@contextlib.contextmanager
def blamed(what: str, file: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Turns what a user's code raises into one line that says where.

    Args:
      what: what was run, for the message.
      file: the line that is named is the last one in it that ran; None takes the last of all.

    Raises:
      UserError: the code raised something, which is its cause; a UserError of ours goes through.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, None if file is None else paths.expand(file))
        text = f"{type(error).__name__}: {error}".removesuffix(": ").rstrip(".")
        raise UserError(f"{what} failed ({text})", fix=f"See {place}") from error


def _place(error: BaseException, file: str | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is None or frame.filename == file]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"


def _parents(module: str) -> list[str]:
    """Returns `a`, `a.b` and `a.b.c` of `a.b.c`."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
