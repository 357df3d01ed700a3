"""What one check found, and what many add up to."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

Severity = Literal["ok", "note", "warning", "error"]
Symptom = tuple[Severity, str]

# Points of 100 that one finding takes away: one error or four warnings make a dataset a patient.
COST: dict[Severity, int] = {"ok": 0, "note": 1, "warning": 8, "error": 30}
_LETTERS = ((90, "A"), (75, "B"), (60, "C"), (40, "D"), (0, "E"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
      name: what was looked at, e.g. `gripper`.
      severity: `note` is worth knowing, `warning` costs quality, `error` makes data unusable.
      score: 0..1, the share of what was looked at (steps, episodes, records) that is sound.
      text: what is the case, with the first places where it is.
      numbers: what was measured.
    """

    name: str
    severity: Severity
    score: float
    text: str
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


def conclude(
    name: str,
    symptoms: Sequence[Symptom],
    healthy: str,
    *,
    score: float = 1.0,
    numbers: Mapping[str, float] | None = None,
) -> Finding:
    """Makes one finding of several symptoms, as severe as the worst of them.

    Args:
      name: what was looked at.
      symptoms: severity and sentence each, without full stops.
      healthy: what to say without symptoms.
      score: see `Finding`.
      numbers: see `Finding`.
    """
    found: list[Severity] = ["ok", *(severity for severity, _ in symptoms)]
    severity = max(found, key=lambda severity: COST[severity])
    text = "; ".join(text for _, text in symptoms) or healthy
    return Finding(
        name=name, severity=severity, score=float(score), text=text, numbers=numbers or {}
    )


def grade(findings: Sequence[Finding]) -> tuple[int, str]:
    """Returns the score of a dataset, 0..100, and its letter: A from 90, B 75, C 60, D 40, E."""
    points = max(0, 100 - sum(COST[finding.severity] for finding in findings))
    return points, next(letter for least, letter in _LETTERS if points >= least)


def percent(share: float) -> str:
    """Spells a share so that a small one never reads as none and a large one never as all."""
    if 0 < share < 0.001:
        return "under 0.1%"
    if 0.999 < share < 1:
        return "over 99.9%"
    return f"{100 * share:.3g}%"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Lists the first few names and says how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
