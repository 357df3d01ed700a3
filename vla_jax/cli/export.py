"""`vla-jax export WORKDIR OUT`: the policy as a folder that another runtime runs."""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError
from vla_jax.runtime import compilation, progress

_GIGABYTE = 10**9


def main(arguments: Sequence[str]) -> None:
    """Writes the folder and runs it where it is to run; hands it over if it decodes as JAX does."""
    values, (path, out) = flags.parse("export", arguments, _define, ("WORKDIR", "OUT"))
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import exporting
    from vla_jax.experiment.workdir import Workdir
    from vla_jax.policy.export import folder
    from vla_jax.policy.export.format import Options

    if values.shard_size <= 0:
        raise UserError("--shard-size", expected="more than 0 GB", found=values.shard_size)
    code = values.openvla_code
    options = Options(
        dtype=values.dtype,
        shard_bytes=int(values.shard_size * _GIGABYTE),
        peft=values.peft,
        openvla_code=None if code is None else pathlib.Path(code),
        timm_models=tuple(values.timm_models),
    )
    compilation.use_cache()
    report = exporting.export(
        Workdir(path),
        out,
        values.robot,
        form=values.format,
        options=options,
        python=values.python or sys.executable,
        skip_parity=values.skip_parity,
    )
    progress.note(f"exported step {report.step} to {out} ({report.format}, {report.dtype})")
    if report.skipped:
        progress.note(
            "WARNING: --skip-parity: NOBODY KNOWS whether this folder computes what JAX computes. "
            "parity.json says that it was skipped."
        )
    for dtype, found in report.measured.items():
        line = ", ".join(f"{k} {v:.3g}" for k, v in found.items() if k != "failures")
        progress.note(f"parity in {dtype} on {report.source}: {line}")
    program = folder.FORMATS[report.format].programs[0]
    progress.note(f'run it: python {out}/{program} --image FILE --instruction "..."')


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string(
        "robot", None, "Robot dataset whose robot it is, if there are several.", flag_values=values
    )
    absl_flags.DEFINE_string(
        "format",
        "torch",
        "torch: our own model in PyTorch; hf_paligemma: for transformers; openvla: for OpenVLA's "
        "code; jax: StableHLO.",
        flag_values=values,
    )
    absl_flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16", "float16"],
        "Of the weights.",
        flag_values=values,
    )
    absl_flags.DEFINE_float(
        "shard_size", 5.0, "Largest size of one file of weights, GB.", 0, 10**6, flag_values=values
    )
    flags.define_path(
        "python",
        "Interpreter in which the exported folder is tested; this one by default.",
        values,
    )
    absl_flags.DEFINE_boolean(
        "skip_parity", False, "Hand the folder over unchecked.", flag_values=values
    )
    absl_flags.DEFINE_boolean(
        "peft",
        False,
        "Write a LoRA run's adapters, too, as OUT/adapter, for peft and the model it started from; "
        "with --format=hf_paligemma.",
        flag_values=values,
    )
    flags.define_path(
        "openvla_code", "Directory with OpenVLA's modelling files, for --format=openvla.", values
    )
    absl_flags.DEFINE_list(
        "timm_models",
        [],
        "What timm calls the vision towers, for --format=openvla with others than OpenVLA's.",
        flag_values=values,
    )
