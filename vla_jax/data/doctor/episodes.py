"""Checks of episodes: length, flags, repetition, pace."""

import hashlib
import math
import re

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.data.doctor.finding import Finding, Symptom, conclude, listed, percent
from vla_jax.data.doctor.recording import Recording

_SHORT = 3  # steps: fewer hold no motion
_TIME = re.compile(r"(^|/)(time_?stamps?|time|stamp)(_\w+)?$", re.IGNORECASE)
_SECONDS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
_OFF = 1.2  # a measured rate may differ by this factor from the declared one


def lengths(recording: Recording) -> Finding:
    """Looks for episodes that are too short to hold motion, or far longer than the others."""
    steps = recording.lengths
    median = float(np.median(steps))
    short, long = np.flatnonzero(steps < _SHORT), np.flatnonzero(steps > 10 * median)
    symptoms: list[Symptom] = []
    if len(short):
        text = f"{percent(len(short) / len(steps))} of the episodes have fewer than {_SHORT} steps"
        severity = "warning" if len(short) > 0.05 * len(steps) else "note"
        symptoms.append((severity, f"{text}: {_episodes(recording, short)}"))
    if len(long):
        text = f"{len(long)} episodes are over 10 times as long as the median of {median:.4g} steps"
        symptoms.append(("note", f"{text}: {_episodes(recording, long)}"))
    numbers = {"shortest": float(steps.min()), "median": median, "longest": float(steps.max())}
    return conclude(
        "episode lengths",
        symptoms,
        f"{len(steps)} episodes of {steps.min()} to {steps.max()} steps, median {median:.4g}",
        score=1 - len(short) / len(steps),
        numbers=numbers,
    )


def flags(recording: Recording) -> Finding:
    """Compares is_first, is_last and is_terminal with where the episodes begin and end."""
    columns = recording.columns
    truth = {"is_first": columns.first, "is_last": columns.last}
    found = {
        name.rpartition("/")[2]: values.reshape(-1).astype(bool)
        for name, values in columns.arrays.items()
        if name.rpartition("/")[2] in (*truth, "is_terminal") and values.size == len(recording)
    }
    if not found:
        return conclude("step flags", [], "the dataset has no is_first, is_last or is_terminal")
    wrong = {name: found[name] != truth[name] for name in truth.keys() & found.keys()}
    if "is_terminal" in found:
        wrong["is_terminal"] = found["is_terminal"] & ~columns.last
    symptoms: list[Symptom] = []
    for name in sorted(wrong):
        if wrong[name].any():
            at = recording.place(int(np.flatnonzero(wrong[name])[0]))
            text = f"{name} is wrong at {int(wrong[name].sum())} steps, first at {at}"
            symptoms.append(("warning", text))
    ends = found["is_terminal"][columns.last].mean() if "is_terminal" in found else math.nan
    healthy = f"{', '.join(sorted(found))} agree with the episodes"
    if "is_terminal" in found:
        healthy += f"; {percent(ends)} of the episodes end in is_terminal"
    any_wrong = np.any(list(wrong.values()), axis=0)
    return conclude("step flags", symptoms, healthy, score=1 - float(np.mean(any_wrong)))


def duplicates(recording: Recording) -> Finding:
    """Finds episodes with the same actions and the same first picture."""
    groups: dict[bytes, list[int]] = {}
    for episode, (start, steps) in enumerate(zip(recording.starts, recording.lengths, strict=True)):
        actions = recording.action[start : start + steps].tobytes()
        groups.setdefault(hashlib.blake2b(actions).digest(), []).append(episode)
    repeated: list[tuple[int, int]] = []
    # Pictures are read only where the actions are the same.
    for episodes in groups.values():
        pictures: dict[bytes, int] = {}
        for episode in episodes if len(episodes) > 1 else ():
            first = pictures.setdefault(_picture(recording, episode), episode)
            if first != episode:
                repeated.append((first, episode))
    repeated.sort()
    share = len(repeated) / len(recording.lengths)
    symptoms: list[Symptom] = []
    if repeated:
        pairs = [f"{b} repeats {a}" for a, b in repeated]
        text = f"{percent(share)} of the episodes are copies: episode {listed(pairs)}"
        symptoms.append(("error" if share > 0.1 else "warning", text))
    healthy = "no two episodes have the same actions and the same first picture"
    return conclude("duplicates", symptoms, healthy, score=1 - share)


def _picture(recording: Recording, episode: int) -> bytes:
    """The first picture of an episode, as its hash; nothing where there is no camera."""
    if not recording.cameras:
        return b""
    data = recording.image(recording.cameras[0], int(recording.starts[episode]))
    return hashlib.blake2b(data).digest()


def control_rate(recording: Recording) -> Finding:
    """Compares the declared control rate with timestamps; without them says what it implies."""
    declared = recording.spec.control_hz if recording.spec else None
    stamps = [
        name
        for name, values in recording.columns.arrays.items()
        if _TIME.search(name) and values.size == len(recording)
    ]
    if not stamps:
        steps = float(np.median(recording.lengths))
        text = "no timestamps"
        if declared:
            text += f"; at the declared {declared:g} Hz a median episode of {steps:.4g} steps "
            text += f"lasts {steps / declared:.3g} s"
        return conclude("control rate", [], text)
    return _measured(recording, stamps[0], declared)


def _measured(recording: Recording, stamp: str, declared: float | None) -> Finding:
    clock = recording.columns[stamp].reshape(-1).astype(np.float64)
    inside = np.flatnonzero(~recording.columns.first)
    with np.errstate(invalid="ignore"):  # infinite less infinite; told by the check of numbers
        gaps = clock[inside] - clock[inside - 1]
    step = float(np.median(gaps)) if len(gaps) else 0.0
    if not 0 < step < np.inf:
        return conclude("control rate", [("note", f"{stamp} does not advance")], "", score=0)
    backwards, late = gaps <= 0, gaps > 3 * step
    symptoms: list[Symptom] = []
    for wrong, word in ((backwards, "does not advance"), (late, "leaps by over 3 usual steps")):
        share = wrong.mean()
        if share > (0 if wrong is backwards else 0.01):
            at = recording.place(int(inside[np.flatnonzero(wrong)[0]]))
            severity = "warning" if share > 0.05 else "note"
            symptoms.append((severity, f"{stamp} {word} at {percent(share)}, first at {at}"))
    hertz, unit = _rate(step, declared)
    text = f"{hertz:.3g} Hz by {stamp} ({unit})"
    if declared and not 1 / _OFF < hertz / declared < _OFF:
        symptoms.append(("warning", f"{text}, while the adapter declares {declared:g} Hz"))
    return conclude(
        "control rate",
        symptoms,
        text,
        score=1 - float((backwards | late).mean()),
        numbers={"hertz": hertz},
    )


def _rate(step: float, declared: float | None) -> tuple[float, str]:
    """Turns the usual step of a clock of unknown unit into hertz, the likeliest unit assumed."""
    expected = declared or 10.0
    rates = {unit: 1 / (step * scale) for unit, scale in _SECONDS.items()}
    unit = min(rates, key=lambda unit: abs(math.log(rates[unit] / expected)))
    return rates[unit], unit


def _episodes(recording: Recording, episodes: Int[np.ndarray, " n"]) -> str:
    """Names the first of some episodes by the place of their first step."""
    return listed([recording.place(int(recording.starts[e])) for e in episodes])
