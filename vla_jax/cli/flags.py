"""The flag surface: `--config=FILE:variant --config.a.b=value --workdir=DIR`, strict."""

import math
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags as absl_flags

from vla_jax.core import overrides, paths
from vla_jax.core.errors import UserError
from vla_jax.experiment import config_file
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime.distributed import PREFIX, DistributedConfig

_HELP = {"-h", "--help"}
_PROCESSES = {
    "coordinator": "Several processes: HOST:PORT where process 0 is met",
    "processes": "Several processes: how many",
    "process": "Several processes: number of this one, from 0",
    "cluster": "Whom to ask for these: slurm, ompi, mpi4py, gcetpu, gketpu, k8s, auto or none",
    "start_timeout": "Seconds until all processes must have met",
    "heartbeat_timeout": "Seconds of silence after which a process counts as gone",
}
_CONFIG = re.compile(r"\.py(:[^/]*)?$")
_FIELD = re.compile(r"--?(?P<no>no)?(?P<path>config\.[^=]*)(=(?P<text>.*))?", re.DOTALL)
_LARGEST = 2**32 - 1
_LONGEST_NAME = 200  # of a flag: what absl looks for a neighbour of
_SHOWN = 300  # characters of what was typed in a message


def parse(
    verb: str,
    arguments: Sequence[str],
    define: Callable[[absl_flags.FlagValues], None],
    positional: Sequence[str] = (),
) -> tuple[absl_flags.FlagValues, list[str]]:
    """Parses the arguments of one verb.

    Args:
      verb: its name, for messages.
      arguments: what follows the verb.
      define: defines the flags.
      positional: names of the positional arguments, all required; the last may end in `...`,
        for one or more.

    Returns:
      The flag values and the positional arguments, which are paths: `~` is the home directory.

    Raises:
      SystemExit: `--help` is among the arguments; the usage has been printed.
      UserError: an unknown or ill-typed flag, or the wrong number of positional arguments.
    """
    values = absl_flags.FlagValues()
    define(values)
    if _HELP & set(arguments):
        sys.stdout.write(_usage(verb, values, positional))
        sys.exit(0)
    for name in (argument.partition("=")[0] for argument in arguments):
        if name.startswith("-") and len(name) > _LONGEST_NAME:
            raise UserError(f"vla-jax {verb}: no such flag", found=f"{name[:_LONGEST_NAME]}...")
    try:
        rest = values([f"vla-jax {verb}", *map(_underscored, arguments)])[1:]
    except (absl_flags.Error, UnicodeError, OSError) as error:  # the latter of --flagfile
        raise UserError(
            f"vla-jax {verb}: {str(error)[:_SHOWN].rstrip('.')}",
            fix=f"See vla-jax {verb} --help for its flags",
        ) from error
    _check_numbers(verb, values)
    at_least = bool(positional) and positional[-1].endswith("...")
    if len(rest) < len(positional) or (len(rest) > len(positional) and not at_least):
        raise UserError(
            f"vla-jax {verb}",
            expected=f"the arguments {' '.join(positional)}" if positional else "flags only",
            found=" ".join(rest)[:_SHOWN] or "none",
        )
    return values, [paths.expand(path) for path in rest]


def parse_run(
    verb: str,
    arguments: Sequence[str],
    define_more: Callable[[absl_flags.FlagValues], None],
    required: Sequence[str] = ("config",),
) -> tuple[RunConfig, absl_flags.FlagValues]:
    """Parses `--config`, its overrides and the verb's own flags.

    Args:
      verb: its name, for messages.
      arguments: what follows the verb.
      define_more: defines the verb's own flags.
      required: flags that must be given.

    Returns:
      The resolved configuration and the flag values, `config` the file as it was given.

    Raises:
      UserError: no or unknown config file, variant or field, an ill-typed value, a flag missing.
    """

    def define(values: absl_flags.FlagValues) -> None:
        define_path(
            "config",
            "Config file, FILE.py or FILE.py:variant; --config.a.b=value overrides a field.",
            values,
        )
        define_more(values)

    plain, fields = _overrides(arguments)
    values, _ = parse(verb, plain, define)
    for flag in required:
        if getattr(values, flag) is None:
            raise UserError(f"vla-jax {verb}", expected=f"--{flag}=...", found="none")
    return config_file.load(values.config, fields), values


def define_path(name: str, text: str, values: absl_flags.FlagValues) -> None:
    """Defines a flag that is a path; `~` is the home directory."""
    parser, serializer = _Path(), absl_flags.ArgumentSerializer()
    absl_flags.DEFINE(parser, name, None, text, values, serializer)


class _Path(absl_flags.ArgumentParser):
    """A path, which is not empty."""

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError("a path is not empty")
        return paths.expand(argument)

    def flag_type(self) -> str:
        return "path"


def define_processes(values: absl_flags.FlagValues) -> None:
    """Defines the flags of `processes`."""
    defaults = DistributedConfig()
    for name, what in _PROCESSES.items():
        default = getattr(defaults, name)
        text = f"{what}; {default or 'as the cluster says'}, or ${PREFIX}{name.upper()}."
        is_text = name in ("coordinator", "cluster")
        make = absl_flags.DEFINE_string if is_text else absl_flags.DEFINE_integer
        make(name, None, text, flag_values=values)


def processes(values: absl_flags.FlagValues) -> DistributedConfig:
    """Returns how the processes of this job find each other.

    Raises:
      UserError: see `DistributedConfig`.
    """
    return DistributedConfig.of({name: values[name].value for name in _PROCESSES})


def with_config(arguments: Sequence[str]) -> list[str]:
    """Turns a positional CONFIG, `FILE.py` or `FILE.py:variant`, into the flag that reads it."""
    return [f"--config={a}" if is_config(a) else a for a in arguments]


def is_config(argument: str) -> bool:
    """Tells whether an argument is the name of a config file, and no flag."""
    return not argument.startswith("-") and _CONFIG.search(argument) is not None


def _check_numbers(verb: str, values: absl_flags.FlagValues) -> None:
    """Refuses what no flag means: nan, infinity, and more than 32 bits."""
    for name in values:
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"vla-jax {verb} --{name}", expected="a finite number", found=value)
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(
                f"vla-jax {verb} --{name}", expected=f"at most {_LARGEST}", found=f"{value:.3g}"
            )


def _underscored(argument: str) -> str:
    """Spells `--cache-dir=x` as `--cache_dir=x`: both are understood."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.removeprefix("--").partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _usage(verb: str, values: absl_flags.FlagValues, positional: Sequence[str]) -> str:
    names = list(values)
    head = ["usage: vla-jax", verb, *positional, *(f"[--{name}=...]" for name in names)]
    width = max(map(len, names), default=0)
    lines = [f"  --{name:<{width}}  {' '.join(values[name].help.split())}" for name in names]
    return "\n".join([" ".join(head), "", *lines, ""])


def _overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Parts the fields of the configuration from the flags.

    A field's value is behind `=` or the next argument; that of a boolean may be missing, and
    `--noconfig.a.b` is false.

    Returns:
      The flags, and the path and the text of every field in the order given.

    Raises:
      UserError: there is no such field, or its value is missing.
    """
    plain: list[str] = []
    found: list[tuple[str, str]] = []
    waiting = iter(arguments)
    for argument in waiting:
        match = _FIELD.fullmatch(argument)
        if match is None:
            plain.append(argument)
            continue
        path, text = match["path"], match["text"]
        kind = overrides.kind(RunConfig, path)
        if text is None and kind is bool:
            text = "false" if match["no"] else "true"
        elif text is None and not match["no"]:
            text = next(waiting, None)
        if text is None or (match["no"] and kind is not bool):
            raise UserError(argument, expected=f"--{path}=VALUE", found="no value")
        found.append((path, text))
    return plain, found
