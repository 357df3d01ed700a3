"""What configurations take on machines that are not here: `results/plan.md`, `results/plan/`.

Needs the compilers (`.[plan,plan-gpu]`), no accelerator. Compiling all of it takes half an hour of
one core, the second time nothing.
"""

import argparse
import dataclasses
import json
import pathlib
import runpy
from typing import Any, NamedTuple

import jax

from vla_jax.core import config as config_lib
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.planning import fit, report, vocabulary
from vla_jax.experiment.planning import plan as plans
from vla_jax.models.layers import Remat
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import progress
from vla_jax.runtime.chips import GIB
from vla_jax.runtime.topology import Topology

ROOT = pathlib.Path(__file__).parents[1]


class Case(NamedTuple):
    """One plan: a file of `configs/`, machines, and what is changed of the configuration."""

    file: str
    topology: str
    batch: int | None = None
    remat: Remat | None = None


CASES = {
    "tabletop_v5e-4": Case("tabletop.py", "v5e:2x2"),
    "paligemma_3b_v5e-16": Case("paligemma_bridge.py", "v5e:4x4"),
    "openvla_7b_v5p-64": Case("openvla_7b.py", "v5p:4x4x4"),
    "palix_55b_v4-512": Case("rt2_palix_55b.py", "v4:8x8x8"),
    "palix_55b_v5p-512": Case("rt2_palix_55b.py", "v5p:8x8x8"),
    "paligemma_3b_h200-8": Case("paligemma_bridge.py", "h200:8", batch=256),
    "paligemma_3b_h200-8_full": Case("paligemma_bridge.py", "h200:8", batch=256, remat="full"),
    "openvla_7b_h100-8": Case("openvla_7b.py", "h100:8", batch=256),
}
HEADER = (
    *("configuration", "topology", "mesh", "batch", "remat", "parameters"),
    *("GiB of", "arguments", "temporaries", "in all", "peak", "estimated", "of what it is"),
    *("TFLOP per device", "sent, GiB", "step at best, ms", "MFU of that"),
)


def main() -> None:
    """Plans what is named, all by default, and writes the table of all plans there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all by default")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    folder = arguments.out / "plan"
    folder.mkdir(parents=True, exist_ok=True)
    if unknown := set(arguments.names) - CASES.keys():
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(CASES)}")
    for name in arguments.names or CASES:
        plan = make(CASES[name])
        (folder / f"{name}.json").write_text(json.dumps(plan.to_json(), indent=1) + "\n")
        progress.note(f"{name}: {plan.taken / GIB:.2f} GiB")
    done = {name: folder / f"{name}.json" for name in CASES}
    rows = [row(name, json.loads(f.read_text())) for name, f in done.items() if f.is_file()]
    lines = [_line(HEADER), _line(["---"] * len(HEADER)), *map(_line, rows)]
    (arguments.out / "plan.md").write_text("\n".join([TITLE, *lines, "", *_programs(done), NOTES]))


def run_of(case: Case) -> RunConfig:
    """Returns what is planned."""
    values = runpy.run_path(str(ROOT / "configs" / case.file))["get_config"]()
    config = config_lib.build(RunConfig, values)
    if case.batch is not None:
        loader = dataclasses.replace(config.loader, batch_size=case.batch)
        config = dataclasses.replace(config, loader=loader)
    return config if case.remat is None else fit.with_remat(config, case.remat)


def chosen(case: Case) -> tuple[RunConfig, int, Topology]:
    """Returns the run with what it leaves open, its number of token ids, and the machines."""
    config, machines = run_of(case), Topology.parse(case.topology)
    tokens = vocabulary.find(config)[0]
    mesh = mesh_lib.abstract_mesh(config.mesh, machines.devices)
    return fit.choose_remat(config, tokens, mesh, machines.chip.memory), tokens, machines


def make(case: Case) -> plans.Plan:
    """Plans one configuration with the compiler."""
    config, tokens, machines = chosen(case)
    plan = plans.on_paper(config, tokens, machines)
    return plans.compiled(config, plan, report.waiting)


def row(name: str, plan: dict[str, Any]) -> list[str]:
    """Returns the table's row of a plan."""
    compiled, seconds = plan["compiled_bytes"], plan["seconds"]
    sizes = [plan["capacity_bytes"]]
    sizes += [compiled[key] for key in ("arguments", "temporaries", "total", "peak")]
    sizes += [plan["estimate_bytes"]["total"]]
    work = sum(plan["flops_per_step"].values()) / plan["devices"] / 1e12
    return [
        CASES[name].file.removesuffix(".py"),
        plan["topology"],
        " ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1),
        str(plan["batch"]),
        plan["remat"],
        f"{plan['parameters'] / 1e9:.2f} B"
        if plan["parameters"] > 1e8
        else f"{plan['parameters']:,}",
        *(f"{size / GIB:.2f}" for size in sizes),
        f"{plan['estimate_bytes']['total'] / compiled['total']:.0%}",
        f"{work:.4g}",
        f"{sum(plan['collective_bytes_per_device'].values()) / GIB:.3g}",
        f"{1e3 * seconds['step']:.4g}",
        f"{plan['mfu_at_best']:.1%}",
    ]


def _programs(done: dict[str, pathlib.Path]) -> list[str]:
    """Returns the table of what compiled steps run on a GPU."""
    head = ("plan", "kernels per step", "collectives: times, GiB sent", "sent, of the roofline's")
    lines = [_line(head), _line(["---"] * len(head))]
    for name, file in done.items():
        plan = json.loads(file.read_text()) if file.is_file() else {}
        if program := plan.get("compiled_program"):
            collectives = program["collectives"].items()
            sent = sum(kind["sent"] for _, kind in collectives)
            cells = (
                name,
                ", ".join(f"{kind} {n:,}" for kind, n in program["kernels"].items()),
                ", ".join(f"{k} {v['count']}, {v['sent'] / GIB:.2f}" for k, v in collectives),
                f"{sent / sum(plan['collective_bytes_per_device'].values()):.0%}",
            )
            lines.append(_line(cells))
    return [*lines, ""]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


TITLE = """# Plans

The train step of each configuration, compiled for the TPU slice or the GPUs by their own compiler
on a machine without either (`python benchmarks/plan.py`; the numbers in full are in `plan/`).
Nothing here was timed: the step at best is a roofline.
"""
NOTES = """- Memory is of each device: `in all` has to be free for the program to start (arguments,
  temporaries, and output that takes the place of no argument), `peak` is the most that is live at
  once, `estimated` is what `vla-jax plan --estimate` says on paper.
- `remat` is what the configuration says, or what `auto` chose of it; `full` on H200 stands for
  comparison. What is computed again counts in the time: a third more of a step's arithmetic with
  `full`, which leaves 75% of the peak, 14 to 19% with `narrow`, under 1% with `dots`.
- TFLOP are model FLOPs of forward and backward. `sent` is what each device sends per step over all
  mesh axes by the sharding rules; of GPUs the second table has what the compiled program sends.
- Kernels of a GPU's step are counted as often as they run, loops included. GPUs are compiled
  without tuning, which needs one; cuDNN's workspace is not in the memory.
"""

if __name__ == "__main__":
    main()
