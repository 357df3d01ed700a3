"""`vla-jax VERB ...`: one file per verb; a user's mistake ends in one line, not a traceback."""

import difflib
import errno
import importlib
import os
import sys
import traceback

from vla_jax.core.errors import Preempted, UserError
from vla_jax.runtime import lifeline

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
# A full disk, no permission, a file where a folder should be or the other way round.
_OF_THE_PLACE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)
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
        _fail(str(UserError("no such verb", expected=", ".join(VERBS), found=verb, fix=fix)), 1)
    try:
        importlib.import_module(f"vla_jax.cli.{_MODULES.get(verb, verb)}").main(arguments)
    except UserError as error:
        _fail(str(error), 1)
    except Preempted as stop:
        _fail(str(stop), lifeline.AGAIN)
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "interrupted; run the same command again to go on", _INTERRUPTED)
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            _crash(error)
            raise
        _fail(f"{error.strerror}: {error.filename or os.getcwd()}. Nothing saved is lost.", 1)
    except Exception as error:
        _crash(error)
        raise


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: vla-jax VERB [--flag=value ...]", "", *lines, ""])


def _fail(message: str, code: int) -> None:
    lifeline.leave(message, code)
    sys.stderr.write(f"vla-jax: {message}\n")
    sys.exit(code)


def _crash(error: Exception) -> None:
    """Ends a process of several in which something unforeseen happened; returns if it is alone."""
    if (line := lifeline.explain(error)) is not None:
        _fail(line, lifeline.AGAIN)
    if lifeline.is_shared():
        traceback.print_exception(error)
        lifeline.leave(f"{type(error).__name__}: {error}", 1)


if __name__ == "__main__":
    main()
