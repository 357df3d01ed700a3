"""The gate: an export is handed over only if its own runtime computes what JAX computed.

The folder's program runs in a process of its own, with the interpreter that is asked for, and
measures itself on the golden frames; what it found is judged here.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from packaging.specifiers import SpecifierSet

from vla_jax.core.errors import UserError
from vla_jax.policy.export.format import Format
from vla_jax.policy.export.golden import PROMPTS

PROGRAMS = pathlib.Path(__file__).parents[1]  # where the stand-alone files come from


def check_runtime(form: Format, python: str = sys.executable) -> None:
    """Asks an interpreter for the packages that a format's program needs, in a second or so.

    Raises:
      UserError: there is no such interpreter, or a package is absent or of another version.
    """
    answer = _run([python, str(PROGRAMS / "selftest.py")], python)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise _runtime_error(form, "numpy and tokenizers", last)
    found = json.loads(answer.stdout)
    for package, versions in form.packages.items():
        if package not in found:
            raise _runtime_error(form, f"{package}{versions}", "no such package")
        version = found[package].partition("+")[0]  # 2.13.0+cpu
        if not SpecifierSet(versions).contains(version, prereleases=True):
            raise _runtime_error(form, f"{package}{versions}", version)


def measure(folder: pathlib.Path, form: Format, python: str = sys.executable) -> dict[str, Any]:
    """Runs the folder's own selftest.

    Returns:
      What `selftest.run` returns: `versions`, `device`, `measured`.

    Raises:
      UserError: the program does not come to its end.
    """
    with tempfile.TemporaryDirectory() as directory:
        report = pathlib.Path(directory) / "report.json"
        # -B: no bytecode of this machine goes along.
        command = [
            python,
            "-B",
            str(folder / form.programs[0]),
            "--selftest",
            "--json",
            str(report),
        ]
        answer = _run(command, python)
        if not report.is_file():
            last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            raise UserError(
                f"export: {form.programs[0]} --selftest", expected="a report", found=last
            )
        return json.loads(report.read_text())


def failures(report: Mapping[str, Any], dtype: str) -> list[str]:
    """Returns why the export is not as JAX, in words; nothing if it is.

    Args:
      report: from `measure`; it holds what exceeds the tolerances that `description.PARITY` put
        into the folder.
      dtype: of the weights, in which it has to be measured, too.
    """
    out = []
    for name in dict.fromkeys(("float32", dtype)):
        found = report["measured"].get(name)
        if found is None or found["prompts"] < PROMPTS:
            out.append(f"{name}: fewer than {PROMPTS} prompts were decoded")
        else:
            out += [f"{name}: {line}" for line in found["failures"]]
    return out


def _run(command: list[str], python: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise UserError(
            f"--python={python}", expected="a Python interpreter", found=error.strerror
        ) from error


def _runtime_error(form: Format, expected: str, found: str) -> UserError:
    return UserError(
        f"export --format={form.name} cannot be checked in its runtime",
        expected=expected,
        found=found,
        fix="Install it, name another interpreter with --python, or export unchecked with "
        "--skip-parity",
    )
