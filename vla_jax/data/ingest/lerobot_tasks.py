"""The instructions of a LeRobot dataset, by number.

Source: huggingface/lerobot, src/lerobot/datasets (v3: io_utils.py; v2: the same at v0.3,
datasets/utils.py).
"""

from pathlib import Path

import msgspec

from vla_jax.core import json_file
from vla_jax.core.errors import UserError, listed
from vla_jax.data.ingest.lerobot_info import Info
from vla_jax.data.ingest.parquet import Tables


class _Task(msgspec.Struct):
    task_index: int
    task: str


def read(root: Path, info: Info, tables: Tables) -> dict[int, str]:
    """Reads the instructions by their `task_index`.

    Raises:
      UserError: the file is missing, damaged, names one twice, or has fewer than `info.json` says.
    """
    if info.major == 2:
        path = root / "meta" / "tasks.jsonl"
        rows = [(row.task_index, row.task) for row in json_file.read_lines(path, _Task)]
    else:
        path = root / "meta" / "tasks.parquet"
        # pandas keeps the texts in an index column of a name of its own.
        texts = [name for name, kind in tables.names(path).items() if "string" in kind]
        if not texts:
            raise UserError(
                f"{path}: not the table of tasks",
                expected="a column task_index and one of texts",
                found=listed(tables.names(path)) or "no columns",
            )
        found = tables.columns(path, {"task_index": "integers", texts[0]: "texts"})
        rows = list(zip(found["task_index"], found[texts[0]], strict=True))
    tasks = dict(rows)
    if len(tasks) != len(rows):
        raise UserError(f"{path}: a task_index appears twice", fix="Fetch the file again")
    if info.total_tasks is not None and info.total_tasks > len(tasks):
        raise UserError(
            f"{path}: fewer tasks than info.json counts",
            expected=info.total_tasks,
            found=len(tasks),
            fix="Fetch the dataset again",
        )
    return tasks
