"""Which platforms JAX looks for, so that a machine without a TPU says nothing about TPUs.

With libtpu installed, for its compiler, JAX looks for a TPU wherever it runs, and where there is
none libtpu prints a screen of errors about the machine that it is not on.
"""

import importlib.util
import os
import pathlib
import pkgutil
import sys

_GOOGLE = "0x1ae0"  # PCI vendor, of disks and network cards, too
_NO_ACCELERATORS = ("0x01", "0x02")  # PCI classes of these
# libtpu asks the metadata server of a cloud machine for its place, and complains without one.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # said, so that it does not complain; not used
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def settle() -> None:
    """Keeps JAX from looking for a TPU where there is none; to be called before JAX is used.

    What the user's environment says about platforms stands.
    """
    is_told = any(name in os.environ for name in ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT"))
    if is_told or importlib.util.find_spec("libtpu") is None or has_tpu():
        return
    if _may_have_others():
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def has_tpu() -> bool:
    """Whether a TPU is among the devices of this machine."""
    devices = pathlib.Path("/sys/bus/pci/devices").glob("*")
    return any(pathlib.Path("/dev").glob("accel[0-9]*")) or any(map(_is_tpu, devices))


def _is_tpu(device: pathlib.Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == _GOOGLE and not kind.startswith(_NO_ACCELERATORS)


def _may_have_others() -> bool:
    """Whether JAX has, or should have, another accelerator than a TPU."""
    if any(pathlib.Path("/dev").glob("nvidia[0-9]*")) or pathlib.Path("/dev/kfd").exists():
        return True
    found = importlib.util.find_spec("jax_plugins")
    places = list(found.submodule_search_locations or []) if found else []
    return any(pkgutil.iter_modules(places))
