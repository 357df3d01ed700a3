"""Which code computed something: the revision of this package, and versions of what it uses."""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

_PACKAGES = ("vla_jax", "jax", "jaxlib", "flax", "numpy", "gymnasium")


def code() -> dict[str, Any]:
    """Returns the git revision of this package and versions of Python and packages.

    Returns:
      `revision`: of the checkout that the package lies in, with `+` where files were changed since;
      None outside of one. `versions`: by name.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"revision": _revision(), "versions": versions}


def _revision() -> str | None:
    folder = pathlib.Path(__file__).parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head or _git(folder, "ls-files", __file__) == "":
        return None  # installed, perhaps inside somebody else's checkout
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
