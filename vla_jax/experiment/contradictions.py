"""Files of a workdir that contradict each other: old results beside new episodes, lost lines.

They have no checksum, as people read, mend and copy them one by one; but each says something of the
others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vla_jax.core.errors import listed
from vla_jax.eval import record
from vla_jax.eval.rate import Rate
from vla_jax.eval.record import Record
from vla_jax.experiment import trials
from vla_jax.experiment.workdir import RESULTS
from vla_jax.runtime import metrics


def of_evaluation(results: Mapping[str, Any], records: Sequence[Record], where: str) -> str | None:
    """Holds the results of an evaluation against its episodes.

    Args:
      results: the content of results.json.
      records: that of episodes.jsonl beside it.
      where: the folder that both lie in, for the message.

    Returns:
      A line that says in what they differ; None if they agree as far as can be told.
    """
    counted = {"success": trials.success(records), "wrong_block": trials.wrong_block(records)}
    differences = [
        f"{measure} in {split} {_spell(said.get(split))} and {_spell(found.get(split))}"
        for measure, found in counted.items()
        if (said := results.get(measure))
        for split in dict.fromkeys((*said, *found))
        if said.get(split) != _plain(found.get(split))
    ]
    environment = dict(results["environment"])
    actual = environment.pop("digest", unknown := object())
    if not differences and actual not in (unknown, trials.digest(environment, records)):
        differences.append("other episodes, or others' beginnings, by the digest of environment")
    if not differences:
        return None
    return (
        f"{where}: {RESULTS} and {record.FILE} disagree, the latter is taken: "
        f"{listed(differences, 3)}. Evaluate again with vla-jax eval."
    )


def of_metrics(rows: Sequence[Mapping[str, Any]], steps: int, log_every: int) -> str | None:
    """Says where lines of metrics.jsonl are lost; None if they reach as far as they should.

    Args:
      rows: its lines.
      steps: of the training, as results.json has it.
      log_every: steps from one line to the next.
    """
    last = rows[-1]["step"] if rows else 0
    if last + log_every > steps:
        return None
    return f"{metrics.FILE} ends at step {last:,}, {RESULTS} is of step {steps:,}: lines are lost."


def _plain(rate: Rate | None) -> dict[str, Any] | None:
    return None if rate is None else rate.to_json()


def _spell(rate: Rate | Mapping[str, Any] | None) -> str:
    if rate is None:
        return "none"
    values = rate.to_json() if isinstance(rate, Rate) else rate
    return f"{values['rate']:.1%} of {values['episodes']:,}"
