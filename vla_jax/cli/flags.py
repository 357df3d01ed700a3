"""The flag surface: `--config=FILE:variant --config.a.b=value --workdir=DIR`, strict."""

import difflib
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags as absl_flags
from ml_collections import config_dict, config_flags

from vla_jax.core import config as config_lib
from vla_jax.core.errors import UserError
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
      The flag values and the positional arguments.

    Raises:
      SystemExit: `--help` is among the arguments; the usage has been printed.
      UserError: an unknown or ill-typed flag, or the wrong number of positional arguments.
    """
    values = absl_flags.FlagValues()
    define(values)
    if _HELP & set(arguments):
        sys.stdout.write(_usage(verb, values, positional))
        sys.exit(0)
    argv = [f"vla-jax {verb}", *map(_underscored, arguments)]
    # ml_collections reads its overrides from the process's arguments, whatever is parsed.
    sys.argv = argv
    try:
        rest = values(argv)[1:]
    except absl_flags.Error as error:
        raise UserError(
            f"vla-jax {verb}: {error}", fix=f"See vla-jax {verb} --help for its flags"
        ) from error
    at_least = bool(positional) and positional[-1].endswith("...")
    if len(rest) < len(positional) or (len(rest) > len(positional) and not at_least):
        raise UserError(
            f"vla-jax {verb}",
            expected=f"the arguments {' '.join(positional)}" if positional else "flags only",
            found=" ".join(rest) or "none",
        )
    return values, list(rest)


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
      The resolved configuration and the flag values.

    Raises:
      UserError: no or unknown config file, variant or field, an ill-typed value, a flag missing.
    """

    def define(values: absl_flags.FlagValues) -> None:
        config_flags.DEFINE_config_file(
            "config",
            None,
            "Config file, FILE.py or FILE.py:variant; --config.a.b=value overrides a field.",
            flag_values=values,
        )
        define_more(values)

    if not _HELP & set(arguments):
        _check_config_file(arguments)
    plain = [argument for argument in arguments if not argument.startswith("--config.")]
    values, _ = parse(verb, plain, define)
    for flag in required:
        if getattr(values, flag) is None:
            raise UserError(f"vla-jax {verb}", expected=f"--{flag}=...", found="none")
    for argument in arguments:
        if argument.startswith("--config."):
            _check_field(argument.removeprefix("--").split("=")[0], values.config)
    values, _ = parse(verb, arguments, define)
    return config_lib.build(RunConfig, values.config), values


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


def _underscored(argument: str) -> str:
    """Spells `--cache-dir=x` as `--cache_dir=x`: both are understood."""
    if not argument.startswith("--") or argument.startswith("--config"):
        return argument  # keys of a config may have dashes: names of datasets
    name, equals, value = argument.removeprefix("--").partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _usage(verb: str, values: absl_flags.FlagValues, positional: Sequence[str]) -> str:
    names = list(values)
    head = ["usage: vla-jax", verb, *positional, *(f"[--{name}=...]" for name in names)]
    width = max(map(len, names), default=0)
    lines = [f"  --{name:<{width}}  {' '.join(values[name].help.split())}" for name in names]
    return "\n".join([" ".join(head), "", *lines, ""])


def _check_config_file(arguments: Sequence[str]) -> None:
    """Names the missing file and its neighbours, where the library would only say errno 2."""
    for argument in arguments:
        if argument.startswith("--config="):
            path = pathlib.Path(argument.removeprefix("--config=").split(":")[0])
            if not path.is_file():
                near = ", ".join(map(str, sorted(path.parent.glob("*.py")))) or "none"
                raise UserError(
                    f"config file {path}",
                    expected="a Python file with get_config()",
                    found=f"no such file; config files there: {near}",
                )


def _check_field(path: str, config: config_dict.ConfigDict) -> None:
    """Walks `config.a.b` down the tree and names the nearest field at the first wrong step."""
    node: object = config
    names = path.split(".")
    for depth, name in enumerate(names[1:], start=1):
        fields = list(node) if isinstance(node, config_dict.ConfigDict) else []
        if name.split("[")[0] not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise UserError(
                f"{'.'.join(names[: depth + 1])}: no such field",
                expected=f"one of {', '.join(fields)}" if fields else "no further name",
                found=name,
                fix=f"Did you mean {'.'.join([*names[:depth], near[0]])}" if near else None,
            )
        node = node[name.split("[")[0]]  # type: ignore[index]
