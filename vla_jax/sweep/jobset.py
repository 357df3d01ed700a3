"""Kubernetes: one JobSet per run, which is one TPU slice or one group of GPU nodes."""

import hashlib
import re
from collections.abc import Sequence

from vla_jax.sweep import script
from vla_jax.sweep.plan import Run

_SCRIPT = "kubernetes/jobset.sh"
_LONGEST = 30  # JobSet adds to the name, and a pod's host name may have 63 letters


class JobSet:
    """Submits through `tpu_scripts/kubernetes/jobset.sh`, whose variables choose the machines."""

    def queued(self, runs: Sequence[Run]) -> set[str]:
        """Returns the names of the runs that wait or run."""
        alive = set(script.lines(script.call(_SCRIPT, "queued")))
        return {run.name for run in runs if job_name(run) in alive}

    def submit(self, runs: Sequence[Run]) -> None:
        """Applies a JobSet per run.

        Raises:
          UserError: kubectl refuses.
        """
        for run in runs:
            script.call(_SCRIPT, "submit", job_name(run), "vla-jax", "train", *run.arguments)


def job_name(run: Run) -> str:
    """Returns a name that Kubernetes takes: the run's, cut, and a hash of its directory."""
    place = hashlib.sha256(str(run.directory.resolve()).encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-z0-9]+", "-", run.name.lower())[:_LONGEST].strip("-")
    return f"vla-{readable}-{place}"
