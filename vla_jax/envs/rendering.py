"""Which OpenGL MuJoCo draws with where there is no display."""

import ctypes.util
import os
import sys

from vla_jax.core.errors import UserError

_VARIABLE = "MUJOCO_GL"
_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_INSTALL = (
    "apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri libosmesa6 gives"
    " both on Debian and Ubuntu"
)


def choose() -> None:
    """Sets MUJOCO_GL to what this machine has, unless it is set or there is a display.

    MuJoCo reads it once, when it is imported: call this before.

    Raises:
      UserError: what the variable names is not here, or nothing is, or MuJoCo has been imported.
    """
    if not sys.platform.startswith("linux"):
        return
    present = [name for name, library in _LIBRARIES.items() if ctypes.util.find_library(library)]
    wanted = os.environ.get(_VARIABLE, "").lower()
    if wanted in _LIBRARIES and wanted not in present:
        raise UserError(
            f"{_VARIABLE}={wanted}: lib{_LIBRARIES[wanted]} is not installed",
            expected=f"one of {', '.join(present) or 'none here'}",
            fix=f"Set another, or install it: {_INSTALL}",
        )
    if wanted or os.environ.get("DISPLAY"):
        return
    if not present:
        raise UserError(
            "MuJoCo cannot draw: no display, and neither libEGL nor libOSMesa", fix=_INSTALL
        )
    if "mujoco" in sys.modules:
        raise UserError(
            f"MuJoCo was imported before it was told how to draw without a display ({_VARIABLE})",
            fix=f"Start the program with {_VARIABLE}={present[0]}",
        )
    os.environ[_VARIABLE] = present[0]
