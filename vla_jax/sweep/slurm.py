"""Slurm: one array job per submission, one task per run."""

import hashlib
import pathlib
import shlex
from collections.abc import Sequence

from vla_jax.core import files
from vla_jax.sweep import script
from vla_jax.sweep.plan import Run

_SCRIPT = "slurm/submit.sh"


class Slurm:
    """Submits through `tpu_scripts/slurm/submit.sh`, whose variables choose nodes and partition.

    A job's name tells its list of runs, so that a sweep that was killed knows what it has queued.

    Args:
      name: of the sweep.
      root: its directory, visible from every node.
      jobs: most tasks at a time; None leaves it to Slurm.
    """

    def __init__(self, name: str, root: pathlib.Path, jobs: int | None):
        place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
        self._prefix = f"sweep-{name}-{place}"
        self._folder = root / "slurm"
        self._jobs = jobs

    def queued(self, runs: Sequence[Run]) -> set[str]:
        """Returns the names of the runs that wait or run."""
        found = set()
        for line in script.lines(script.call(_SCRIPT, "--queued", self._prefix)):
            job, _, task = line.partition("|")
            tasks = self._folder / f"{job}.tsv"
            if task.isdigit() and tasks.exists():
                found.add(tasks.read_text().splitlines()[int(task)].partition("\t")[0])
        return found

    def submit(self, runs: Sequence[Run]) -> None:
        """Queues an array job.

        Raises:
          UserError: sbatch refuses.
        """
        number = len(list(self._folder.glob("*.tsv")))
        job = f"{self._prefix}-{number}"
        tasks = self._folder / f"{job}.tsv"
        rows = [f"{run.name}\t{shlex.join(['vla-jax', 'train', *run.arguments])}" for run in runs]
        files.write_whole(tasks, "".join(f"{row}\n" for row in rows).encode())
        limit = f"%{self._jobs}" if self._jobs else ""
        array = f"0-{len(runs) - 1}{limit}"
        try:
            script.call(_SCRIPT, "--job", job, "--array", array, "--tasks", str(tasks))
        except BaseException:
            tasks.unlink()
            raise
