"""Check of the files themselves: whole records, right checksums, as many as the dataset says."""

from collections.abc import Callable

from vla_jax.core.errors import UserError
from vla_jax.data import schema, tfrecord
from vla_jax.data.doctor.finding import Finding, Symptom, conclude
from vla_jax.runtime import storage

BUDGET = 4 << 30  # bytes whose checksums are computed, unless all are asked for


def records(
    directory: schema.Directory,
    split: schema.Split,
    *,
    everything: bool = False,
    budget: int = BUDGET,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Finding:
    """Reads shards record by record and compares checksums and counts.

    Args:
      directory: the dataset's version directory.
      split: the shards.
      everything: all shards; else evenly spaced ones of about `budget` bytes in all.
      budget: bytes.
      on_progress: (what, bytes done, bytes in all).
    """
    files = storage.Files([storage.join(directory, name) for name in split.shards])
    sizes = [files.size(k) for k in range(len(files))]
    stride = 1 if everything else max(1, -(-sum(sizes) // budget))
    chosen = range(0, len(files), stride)
    total, done, sound = sum(sizes[k] for k in chosen), 0, 0
    damaged: list[str] = []
    for k in chosen:
        number = 0
        try:
            for record in tfrecord.records(
                lambda start, end, k=k: files.read(k, start, end),
                sizes[k],
                f"shard {split.shards[k]}",
            ):
                number += 1
                if on_progress:
                    at = done + record.offset + len(record.crc) + record.end - record.start
                    on_progress("checksums", at, total)
            _compare(split, k, number)
        except UserError as error:
            damaged.append(str(error).rstrip("."))
        sound += number
        done += sizes[k]
    part = "all" if stride == 1 else f"{len(chosen)} of {len(files)}"
    symptoms: list[Symptom] = []
    if damaged:
        text = f"{len(damaged)} of {len(chosen)} shards are damaged, first {damaged[0]}"
        symptoms.append(("error", text))
    return conclude(
        "records",
        symptoms,
        f"{part} shards have the right checksums: {sound} records, {total / 1e6:.3g} MB",
        score=1 - len(damaged) / max(1, len(chosen)),
        numbers={"shards": float(len(chosen)), "damaged": float(len(damaged))},
    )


def _compare(split: schema.Split, k: int, found: int) -> None:
    """Compares the number of records of a shard with what the dataset says.

    Raises:
      UserError: they differ.
    """
    if split.shard_lengths is not None and split.shard_lengths[k] != found:
        raise UserError(
            f"shard {split.shards[k]}: not as dataset_info.json says",
            expected=f"{split.shard_lengths[k]} records",
            found=found,
        )
