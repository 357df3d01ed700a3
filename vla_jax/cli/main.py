"""`vla-jax VERB ...`: one file per verb; a user's mistake ends in one line, not a traceback."""

import difflib
import errno
import importlib
import os
import sys
import traceback

from vla_jax.core.errors import Preempted, UserError
from vla_jax.runtime import lifeline, platforms

VERBS = {
    "train": "train on robot episodes and web questions; run again to resume",
    "sweep": "run many trainings that differ in a few values, and compare them",
    "eval": "play fixed episodes of an environment, ask questions; or compare two results",
    "report": "write the page of a run: results, films, curves, mixture, configuration",
    "act": "print one action for one image and one instruction",
    "export": "write the policy for PyTorch",
    "index": "find every frame of a dataset's shards, once, so that training can read them",
    "inspect": "print what a run would train on, or draw a batch, before it trains",
    "plan": "tell memory, time and cost of a run on machines that are not here",
    "dist-check": "whether the processes of a job can work together, in 30 s, before the job",
    "doctor": "examine a dataset: findings, a page with plots, exit code 2 if it is sick",
    "demonstrate": "record the scripted expert of a simulator as RLDS",
    "ingest": "convert HDF5 (LIBERO, robomimic) or LeRobot data to RLDS",
}
_MODULES = {"eval": "evaluate", "dist-check": "dist_check"}
# What the system says of a path that a user chose: full, closed, of another kind, or no name.
_OF_THE_PLACE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EBUSY, errno.EXDEV),
    *(errno.EINVAL, errno.EOPNOTSUPP, errno.EMFILE, errno.ENFILE, errno.ESTALE),
)
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # what XLA says
_SHOWN = 300  # characters of what others say in a message
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: list[str] | None = None) -> None:
    """Runs one verb and exits: 0 done, 1 a mistake in the input, 130 interrupted, 75 preempted.

    Args:
      argv: arguments after the program's name; those of the process by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        sys.exit(0)
    verb, *arguments = argv
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        fix = f"Did you mean {near[0]}" if near else "See vla-jax --help"
        found = verb[:_SHOWN]
        _fail(str(UserError("no such verb", expected=", ".join(VERBS), found=found, fix=fix)), 1)
    platforms.settle()
    try:
        importlib.import_module(f"vla_jax.cli.{_MODULES.get(verb, verb)}").main(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if (explained := _explain(error)) is None:
            _crash(error)
            raise
        _fail(*explained)


def _explain(error: BaseException) -> tuple[str, int] | None:
    """Returns the line and the exit code of what is no fault of ours; None of anything else."""
    match error:
        case UserError():
            return str(error), 1
        case Preempted():
            return str(error), lifeline.AGAIN
        case KeyboardInterrupt():
            line = str(error) or "interrupted; run the same command again to go on"
            return line, _INTERRUPTED
        case OSError() if error.errno in _OF_THE_PLACE:
            place = os.fsdecode(error.filename) if error.filename else os.getcwd()
            return f"{error.strerror}: {place[:_SHOWN]}. Nothing saved is lost.", 1
        case UnicodeEncodeError():  # of a path or a text with half a character
            text = f"{error.object[:_SHOWN]!a}"
            return f"{text}: not a text that can be written ({error.reason}).", 1
        case _ if isinstance(error, MemoryError) or _OUT_OF_MEMORY in str(error)[:_SHOWN]:
            said = " ".join(str(error).split())[:_SHOWN].rstrip(".") or "no memory is left"
            fix = "Make the batch (--config.loader.batch_size) or the model smaller"
            return str(UserError(f"out of memory: {said}", fix=fix)), 1
    return None


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: vla-jax VERB [--flag=value ...]", "", *lines, ""])


def _fail(message: str, code: int) -> None:
    # Half a character of a path cannot be written as it is.
    message = message.encode(errors="backslashreplace").decode()
    lifeline.leave(message, code)
    sys.stderr.write(f"vla-jax: {message}\n")
    sys.exit(code)


def _crash(error: BaseException) -> None:
    """Ends a process of several in which something unforeseen happened; returns if it is alone."""
    if (line := lifeline.explain(error)) is not None:
        _fail(line, lifeline.AGAIN)
    if lifeline.is_shared():
        traceback.print_exception(error)
        lifeline.leave(f"{type(error).__name__}: {error}", 1)


if __name__ == "__main__":
    main()
