"""A plan as tables and sentences."""

from collections.abc import Iterable

from vla_jax.experiment.planning.plan import Plan
from vla_jax.experiment.planning.search import Candidate
from vla_jax.runtime import progress
from vla_jax.runtime.chips import GIB

_SECONDS_BETWEEN_LINES = 30


def waiting(seconds: float) -> None:
    """Says now and then that the compiler is at work."""
    if round(seconds) % _SECONDS_BETWEEN_LINES == 1:
        progress.note(f"compiling the train step, {seconds:.0f} s (a large model takes minutes)")


def follow(candidates: Iterable[Candidate], given: Plan) -> Plan:
    """Shows a search as it goes; returns the plan that fits, or the last one.

    Args:
      candidates: from `search.search`.
      given: the plan that is searched for better ones, returned if there is none.
    """
    plan = given
    for candidate in candidates:
        plan = candidate.plan
        verdict = "fits" if plan.fits else "does not fit"
        progress.note(
            f"{candidate.flags(given)}: {plan.taken / GIB:.2f} GiB, {verdict}, "
            f"{1 / plan.seconds_per_example:,.0f} examples/s at best"
        )
    return plan


def show(
    plan: Plan,
    *,
    examples: float | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> None:
    """Prints the plan.

    Args:
      plan: what was planned.
      examples: number of examples to tell time and cost of; None for neither.
      mfu: utilisation at which to tell them too, 0..1.
      price: of one chip for one hour, in any currency; None leaves the cost out.
    """
    sizes = [f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1]
    title = f"{plan.topology}, {' '.join(sizes) or 'one device'}"
    share = f"{plan.trained / plan.parameters:.1%}"
    rows = [
        ("batch", f"{plan.batch}", ""),
        ("remat", plan.remat, ""),
        ("parameters", f"{plan.parameters:,}", ""),
        ("parameters: trained", f"{plan.trained:,}", share),
    ]
    rows += [*_memory(plan), *_program(plan), *_time(plan)]
    progress.table(title, ("what", "value", "of what"), rows)
    if examples is not None:
        rows = [_run("at best", plan, plan.hours(examples), price)]
        if mfu is not None:
            rows.append(_run(f"at {mfu:.0%} MFU", plan, plan.hours(examples, mfu), price))
        progress.table(f"{examples:,.0f} examples", ("when", "hours", "chip-hours", "cost"), rows)
    verdict = "fits" if plan.fits else "does not fit"
    progress.note(f"{verdict}: {plan.taken / GIB:.2f} of {_capacity(plan)} per device")


def advice(given: Plan, change: Candidate | None) -> str:
    """Returns what to do about a plan that does not fit: the smallest change, if there is one."""
    if change is None:
        return (
            f"No mesh, remat or smaller batch holds it on {given.topology}: take more chips, "
            "or a strategy that trains fewer parameters"
        )
    size = change.plan.estimate.total * given.taken / given.estimate.total
    return f"The nearest change that should fit: {change.flags(given)} (about {_gib(size)})"


def _memory(plan: Plan) -> list[tuple[str, str, str]]:
    capacity = _capacity(plan)
    estimate = plan.estimate
    parts = {
        "state": estimate.state,
        "gradients": estimate.gradients,
        "activations kept": estimate.activations,
        "at work: one layer, gathered parameters, logits": estimate.working,
        "in all": estimate.total,
    }
    rows = [(f"estimate: {name}", _gib(size), capacity) for name, size in parts.items()]
    if plan.memory is None:
        return rows
    compiled = {
        "arguments": plan.memory.arguments,
        "temporaries": plan.memory.temporaries,
        "output that is new": plan.memory.output - plan.memory.aliased,
        "in all": plan.memory.total,
        "peak in use": plan.memory.peak,
    }
    return [*rows[-1:], *((f"compiled: {n}", _gib(size), capacity) for n, size in compiled.items())]


def _program(plan: Plan) -> list[tuple[str, str, str]]:
    """What the compiled step runs on each device, where it is known."""
    if plan.program is None:
        return []
    kernels, collectives = plan.program.kernels, plan.program.collectives
    return [
        *((f"compiled: kernels per step, {name}", f"{n:,}", "") for name, n in kernels.items()),
        *(
            (f"compiled: {name}, sent per device", _gib(found.sent), f"{found.count:,} times")
            for name, found in collectives.items()
        ),
    ]


def _time(plan: Plan) -> list[tuple[str, str, str]]:
    cost = plan.cost
    total = sum(cost.flops.values())
    names = {"compute": "arithmetic", "memory": "device memory", "interconnect": "collectives"}
    return [
        *(
            (f"FLOPs per step: {name}", f"{value:.3g}", f"{value / total:.1%}")
            for name, value in cost.flops.items()
        ),
        ("FLOPs per step: model", f"{total:.4g}", ""),
        ("FLOPs per step: recomputed", f"{cost.recomputed:.3g}", f"{cost.recomputed / total:.1%}"),
        *(
            (f"sent per device over {axis}", _gib(size), "")
            for axis, size in cost.collectives.items()
            if plan.mesh[axis] > 1
        ),
        *(
            (f"time at best: {names[name]}", f"{1e3 * seconds:.4g} ms", "")
            for name, seconds in cost.seconds.items()
        ),
        ("time at best: step", f"{1e3 * cost.step_seconds:.4g} ms", ""),
        ("examples/s at best", f"{1 / plan.seconds_per_example:,.1f}", ""),
        ("MFU of that", f"{cost.mfu:.1%}", "100%"),
    ]


def _run(when: str, plan: Plan, hours: float, price: float | None) -> tuple[str, str, str, str]:
    chip_hours = hours * plan.topology.chips
    cost = "give --price" if price is None else f"{chip_hours * price:,.0f}"
    return when, f"{hours:,.2f}", f"{chip_hours:,.1f}", cost


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size > GIB / 10 else f"{size / 2**20:.2f} MiB"


def _capacity(plan: Plan) -> str:
    return f"{plan.topology.chip.memory / GIB:.1f} GiB"
