"""The files of checkpoints, listed before the commit and held against the list before a read.

So one whose files were cut short or lost afterwards is known without reading its arrays.
"""

import json

import jax
from etils import epath
from jax.experimental import multihost_utils

from vla_jax.core import errors
from vla_jax.runtime import progress

LIST = "FILES.json"
# What Orbax writes after the list, at the commit.
_COMMIT = "commit_success.txt"
_METADATA = "_CHECKPOINT_METADATA"
_ASIDE = ".damaged"


def record(directory: epath.Path, step: int) -> None:
    """Writes the list of a checkpoint that is complete but for its commit.

    Args:
      directory: of all checkpoints.
      step: whose.

    Raises:
      OSError: the file system refuses.
    """
    # Under its last name where the commit is a file, as on object storage.
    (written,) = (path for path in directory.iterdir() if _step(path) == step)
    (written / LIST).write_text(json.dumps(_sizes(written), indent=0))


def damage(directory: epath.Path) -> str | None:
    """Returns what is wrong with one checkpoint, None where nothing is.

    One without a list, from before there were lists, is taken to be whole. Costs one `stat` per
    file.
    """
    if not (directory / LIST).exists():
        return None
    contents = {}
    for name in (_METADATA, LIST):
        try:
            contents[name] = json.loads((directory / name).read_text())
        except FileNotFoundError:
            return f"{name} is missing"
        except json.JSONDecodeError:
            return f"{name} is cut short"
    found = _sizes(directory)
    for name, size in contents[LIST].items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]} of {size} bytes"
    return None


def damaged(directory: epath.Path) -> list[int]:
    """Returns the steps of the damaged checkpoints newer than the newest whole one; notes them.

    Raises:
      UserError: there are checkpoints, and all are damaged.
    """
    steps = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    out: list[int] = []
    for step in reversed(steps):
        reason = damage(directory / str(step))
        if reason is None:
            if out:
                progress.note(f"the checkpoint before it is used: {directory / str(step)}")
            return out
        progress.note(f"checkpoint {directory / str(step)} is damaged: {reason}")
        out.append(step)
    if out:
        raise errors.UserError(
            f"checkpoints in {directory}",
            expected="a whole one",
            found=f"only damaged ones (steps {', '.join(map(str, steps))})",
            fix="Restore one of them, or remove the directory to begin anew",
        )
    return []


def set_aside(directory: epath.Path, steps: list[int]) -> None:
    """Renames checkpoints to STEP.damaged, so that their steps can be saved again.

    To be called by all processes at once; the first one renames.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("all know the damaged checkpoints")
    if jax.process_index() == 0:
        for step in steps:
            aside = directory / f"{step}{_ASIDE}"
            if aside.exists():
                aside.rmtree()
            (directory / str(step)).rename(aside)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")


def _step(path: epath.Path) -> int | None:
    """Returns whose directory a path is, also while it is being written."""
    name = path.name.partition(".")[0]
    return int(name) if name.isdigit() and not path.name.endswith(_ASIDE) else None


def _sizes(directory: epath.Path) -> dict[str, int]:
    """Returns the bytes of every file below a directory, by its path within it."""
    sizes: dict[str, int] = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            sizes |= {f"{path.name}/{name}": size for name, size in _sizes(path).items()}
        elif path.name not in (LIST, _COMMIT, _METADATA):
            sizes[path.name] = path.stat().length
    return sizes
