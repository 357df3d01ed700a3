"""A robot's adapter applied to its dataset, once: the result is kept beside the index, mapped.

Only what the arithmetic reads and writes at a time is in memory, so that a dataset of 10^8 steps
takes no heap. What is kept is named by a hash of the data and of the adapter's source; a change of
either computes it anew.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from vla_jax.core.arrays import Bool, Float
from vla_jax.core.errors import UserError
from vla_jax.data import beside, index_files
from vla_jax.data.flaw import Flaw
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.robots import robot as robot_lib
from vla_jax.data.robots import standardize
from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.sealed import Sealed

Field = Literal["action", "state", "keep"]

_PIECE = 1 << 20  # steps standardised at a time, in whole episodes
_MOST_NAMED = 10_000  # steps with a number that cannot be; all are left out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard:
    """The standard fields of every step of a dataset, in file order.

    Attributes:
      action: float32 [i, a], robot units of the spec.
      state: float32 [i, s]; s may be 0.
      keep: bool [i], the steps to train on. Only these are known to be finite and possible.
      impossible: of the steps that are left out for a number that cannot be: frame -> flaw.
      fingerprint: of the data and of what they mean.
      kept: the folder that they are mapped from.
    """

    action: Float[np.ndarray, "i a"]
    state: Float[np.ndarray, "i s"]
    keep: Bool[np.ndarray, " i"]
    impossible: Mapping[int, Flaw]
    fingerprint: str
    kept: Sealed


def open_standard(index: FrameIndex, robot: Robot) -> Standard:
    """Opens the standard fields of a dataset, computing them where that was not yet done.

    Raises:
      UserError: the adapter fails or returns another shape than its spec says, or the folder of
        the index cannot be written.
    """
    fingerprint = digest(index.fingerprint, _meaning(robot))
    name = f"standard-{fingerprint}"
    kept = beside.keep(index, name, lambda folder: _write(folder, index, robot))
    has_state = robot.state is not None
    return Standard(
        action=kept.load("action.npy"),
        state=kept.load("state.npy") if has_state else np.zeros((len(index), 0)),
        keep=kept.load("keep.npy"),
        impossible={
            frame: Flaw(kind="value", place=index.place(frame), reason=reason)
            for frame, reason in kept.values["impossible"]
        },
        fingerprint=fingerprint,
        kept=kept,
    )


def digest(*parts: object) -> str:
    """Returns 16 hexadecimal digits that change with any part."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def _write(folder: pathlib.Path, index: FrameIndex, robot: Robot) -> dict[str, Any]:
    sizes: dict[Field, int] = {"action": robot.spec.size}
    if robot.state is not None:
        sizes["state"] = len(robot.state_names)
    with contextlib.ExitStack() as stack:

        def make(name: str, dtype: type, shape: tuple[int, ...] = ()) -> index_files.ArrayFile:
            file = index_files.ArrayFile(folder / f"{name}.npy", dtype, shape)
            return stack.enter_context(contextlib.closing(file))

        fields: dict[Field, index_files.ArrayFile] = {
            field: make(field, np.float32, (size,)) for field, size in sizes.items()
        }
        kept = make("keep", np.bool_)
        found: dict[int, str] = {}
        for start, stop in _pieces(index):
            piece = slice(start, stop)
            columns = Columns(
                arrays={name: np.asarray(index.array(name)[piece]) for name in robot.arrays},
                episode=np.asarray(index.episode[piece]),
            )
            keep = apply(robot, "keep", columns)
            for field, out in fields.items():
                values = apply(robot, field, columns)
                check = robot.spec.impossible if field == "action" else _is_not_finite
                bad = check(values)
                wrong = np.any(bad, axis=1)
                for row in np.flatnonzero(wrong & keep)[: _MOST_NAMED - len(found)].tolist():
                    reason = _reason(robot, field, values[row], int(np.argmax(bad, axis=1)[row]))
                    found.setdefault(start + row, reason)
                keep = keep & ~wrong
                out.append(np.where(wrong[:, None], 0, values))
            kept.append(keep)
        for file in (*fields.values(), kept):
            file.finish()
    return {"impossible": [[frame, found[frame]] for frame in sorted(found)]}


def _is_not_finite(values: np.ndarray) -> np.ndarray:
    return ~np.isfinite(values)


def _reason(robot: Robot, field: str, values: np.ndarray, dimension: int) -> str:
    is_action = field == "action"
    name = (robot.spec.names if is_action else robot.state_names)[dimension]
    meant = robot.spec.meant(dimension) if is_action else "a finite number"
    return f"{field} {name!r}: expected {meant}, found {values[dimension]:g}"


def apply(robot: Robot, field: Field, columns: Columns) -> np.ndarray:
    """Calls a function of an adapter, which may be the user's own and wrong in any way.

    Returns:
      [i, a] actions, [i, s] states (s may be 0), or bool [i], the steps to keep.

    Raises:
      UserError: it fails, or returns another shape than the adapter's names say.
    """
    function, steps = getattr(robot, field), len(columns.episode)
    sizes = {"action": (robot.spec.size,), "state": (len(robot.state_names),), "keep": ()}
    if function is None:
        return np.ones(steps, bool) if field == "keep" else np.zeros((steps, 0), np.float32)
    what = f"dataset {robot.name}: {field} of its adapter ({_home(function)})"
    try:
        with np.errstate(all="ignore"):  # what is not finite is found, and told with its place
            values = np.asarray(function(columns), bool if field == "keep" else None)
    except Exception as error:  # it is the user's, who may have thought of any
        raise UserError(
            f"{what}: {type(error).__name__} {error}",
            fix=f"It is given the features {', '.join(columns.arrays) or 'none'}, those in its "
            "`arrays`, one row per step",
        ) from error
    if values.dtype.kind not in "biuf":
        raise UserError(what, expected="real numbers", found=f"the dtype {values.dtype}")
    if values.shape != (steps, *sizes[field]):
        raise UserError(
            what,
            expected="".join(f"{size} dimensions for each of " for size in sizes[field])
            + f"{steps} steps",
            found=f"shape {list(values.shape)}",
            fix="Let its names and its function agree",
        )
    return values


def _pieces(index: FrameIndex) -> Iterator[tuple[int, int]]:
    """Cuts the dataset at episode boundaries into pieces of at least `_PIECE` steps."""
    edges = np.asarray(index.starts)
    start = 0
    while start < len(index):
        stop = int(edges[min(np.searchsorted(edges, start + _PIECE), len(edges) - 1)])
        yield start, stop
        start = stop


def _meaning(robot: Robot) -> str:
    """Hashes what the adapter's functions do: the text of their modules and what they hold."""
    functions = (robot.action, robot.state, robot.keep)
    modules = {_home(function) for function in functions if function is not None}
    modules |= {standardize.__name__, robot_lib.__name__}
    texts = [_text(name) for name in sorted(modules)]
    held = [_held(function) for function in functions]
    return digest(robot.name, robot.spec, robot.state_names, robot.arrays, held, *texts)


def _home(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__module__", None) or type(inner).__module__


def _text(module: str) -> str:
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):  # typed into an interpreter
        return module


def _held(function: Callable[..., Any] | None) -> str:
    """Spells the values bound to a function: which lambda it is, its closure, its arguments."""
    if function is None:
        return ""
    if isinstance(function, functools.partial):
        return f"{_held(function.func)} {function.args} {sorted(function.keywords.items())}"
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(type(function))
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    spelled = [_held(value) if callable(value) else repr(value) for value in cells]
    constants = [value for value in code.co_consts if not inspect.iscode(value)]
    return f"{code.co_qualname} {code.co_names} {constants} {spelled} {function.__defaults__}"
