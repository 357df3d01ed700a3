"""Checks of the action: finite, alive, without wild values, a gripper that makes sense, motion."""

import re

import numpy as np

from vla_jax.actions.spec import LARGEST
from vla_jax.core.arrays import Bool, Int
from vla_jax.data.doctor.finding import Finding, Symptom, conclude, listed, percent
from vla_jax.data.doctor.recording import Recording

_FAR, _VERY_FAR = 3.0, 10.0  # spans (q99 - q01) beyond the quantile: a note, a warning
_STILL = 0.01  # of a dimension's usual reach: less is no motion
_OPEN = re.compile(r"\b([01])(?:\.0)?\s*(?:=|is|:)?\s*(?:fully )?open", re.IGNORECASE)


def finite(recording: Recording) -> Finding:
    """Looks for NaN, infinities and impossible sizes; errors in the action or the state."""
    symptoms: list[Symptom] = []
    standard = {"action": recording.action, "state": recording.state}
    sound = np.ones(len(recording), bool)
    for name, values in standard.items():
        if values is None:
            continue
        bad = ~np.isfinite(values).all(1) & recording.keep
        if bad.any():
            sound &= ~bad
            symptoms.append(("error", _not_finite(name, bad, recording)))
        huge = (np.isfinite(values) & (np.abs(values) > LARGEST)).any(1) & recording.keep
        if huge.any():
            at = recording.place(int(np.flatnonzero(huge)[0]))
            text = f"{name} is beyond {LARGEST:g} at {int(huge.sum())} steps, first at {at}"
            symptoms.append(("warning", text))
    for name, values in recording.columns.arrays.items():
        bad = ~np.isfinite(values.reshape(len(recording), -1)).all(1) & recording.keep & sound
        if bad.any():
            symptoms.append(("warning", _not_finite(name, bad, recording)))
    return conclude("finite numbers", symptoms, "no NaN, no infinity", score=_mean(sound))


def _not_finite(name: str, bad: Bool[np.ndarray, " i"], recording: Recording) -> str:
    first = recording.place(int(np.flatnonzero(bad)[0]))
    return f"{name} is NaN or infinite at {int(bad.sum())} steps, first at {first}"


def dimensions(recording: Recording) -> Finding:
    """Looks for dimensions that never move, or so rarely that the quantiles do not see it."""
    values = recording.values
    if not values.size:
        return conclude("dimensions", [("error", "there is no action to look at")], "", score=0)
    low, high = recording.quantiles
    constant, noise, pinned = [], [], []
    for k in recording.ranged:
        name = recording.names[k]
        if np.ptp(values[:, k]) == 0:
            constant.append(f"{name} = {values[0, k]:.4g}")
        elif recording.dead[k] and np.ptp(values[:, k]) <= 10 * max(high[k] - low[k], 1e-8):
            noise.append(f"{name} = {low[k]:.4g} +- {np.ptp(values[:, k]) / 2:.1g}")
        elif recording.dead[k]:
            pinned.append(f"{name} = {low[k]:.4g}")
    symptoms: list[Symptom] = []
    if constant:
        severity = "error" if len(constant) == len(recording.ranged) else "warning"
        symptoms.append((severity, f"constant over the whole split: {listed(constant, 8)}"))
    if noise:
        text = "nothing moves but what float32 rounds, which normalising would blow up"
        text = f"{text}: {listed(noise, 8)}"
        symptoms.append(("warning", text))
    if pinned:
        text = f"q01 = q99, so that normalising loses the rare other values: {listed(pinned, 8)}"
        symptoms.append(("warning", text))
    dead = len(constant) + len(noise) + len(pinned)
    return conclude(
        "dimensions",
        symptoms,
        f"all {len(recording.ranged)} dimensions move",
        score=1 - dead / max(1, len(recording.ranged)),
    )


def outliers(recording: Recording) -> Finding:
    """Compares the extremes with the quantiles and with the adapter's bounds."""
    values, symptoms, numbers = recording.values, [], {}
    beyond = np.zeros(len(values), bool)
    low, high = recording.quantiles
    for k in recording.ranged if len(values) else []:
        span = high[k] - low[k]
        if recording.dead[k]:
            continue
        distance = np.maximum(values[:, k] - high[k], low[k] - values[:, k]) / span
        worst = int(np.argmax(distance))
        numbers[recording.names[k]] = float(distance[worst])
        if distance[worst] > _FAR:
            beyond |= distance > _FAR
            severity = "warning" if distance[worst] > _VERY_FAR else "note"
            text = (
                f"{recording.names[k]} is {values[worst, k]:.4g} at "
                f"{recording.place(int(recording.rows[worst]))}, "
                f"while 98% lie in {low[k]:.4g}..{high[k]:.4g}"
            )
            symptoms.append((severity, text))
    symptoms += _out_of_bounds(recording)
    return conclude(
        "outliers", symptoms, "extremes near the quantiles", score=_mean(~beyond), numbers=numbers
    )


def _out_of_bounds(recording: Recording) -> list[Symptom]:
    if recording.spec is None:
        return []
    values = recording.values
    # Bounds are decimals, the values float32.
    slack = 1e-4 * (np.subtract(recording.spec.high, recording.spec.low))
    out = (values < recording.spec.low - slack) | (values > recording.spec.high + slack)
    symptoms: list[Symptom] = []
    for k in recording.ranged:
        if out[:, k].any():
            share = out[:, k].mean()
            text = (
                f"{recording.names[k]} leaves the adapter's {recording.spec.low[k]:.4g}.."
                f"{recording.spec.high[k]:.4g} at {percent(share)} of the steps"
            )
            symptoms.append(("warning" if share > 0.01 else "note", text))
    return symptoms


def gripper(recording: Recording) -> Finding:
    """Looks at range, sign and toggling of each gripper dimension."""
    symptoms: list[Symptom] = []
    numbers: dict[str, float] = {}
    if not recording.grippers or not len(recording.rows):
        return conclude("gripper", [], "no action dimension is called gripper")
    sound = 1.0
    for k in recording.grippers:
        name, values = recording.names[k], recording.values[:, k]
        low, high = _gripper_bounds(recording, k)
        outside = (values < low - 0.01 * (high - low)) | (values > high + 0.01 * (high - low))
        if outside.any():
            sound = min(sound, 1 - outside.mean())
            at = recording.place(int(recording.rows[np.flatnonzero(outside)[0]]))
            severity = "error" if outside.mean() > 0.01 else "warning"
            text = (
                f"{name} leaves {low:.4g}..{high:.4g} at {percent(outside.mean())} of the steps "
                f"({values.min():.4g}..{values.max():.4g}), first at {at}"
            )
            symptoms.append((severity, text))
        above = values > (low + high) / 2
        symptoms += _toggling(recording, name, above, numbers)
        symptoms += _sign(recording, name, above)
    healthy = f"in range; {numbers[f'{recording.names[recording.grippers[0]]} toggles']:.3g} "
    return conclude(
        "gripper", symptoms, f"{healthy}toggles per episode", score=sound, numbers=numbers
    )


def _gripper_bounds(recording: Recording, k: int) -> tuple[float, float]:
    """The adapter's bounds; without an adapter the extremes, which nothing leaves."""
    if recording.spec is not None:
        return recording.spec.low[k], recording.spec.high[k]
    values = recording.values[:, k]
    return float(values.min()), float(values.max())


def _toggling(
    recording: Recording, name: str, above: Bool[np.ndarray, " k"], numbers: dict[str, float]
) -> list[Symptom]:
    episode = recording.columns.episode[recording.rows]
    toggled = (np.diff(above) != 0) & (np.diff(episode) == 0)
    counts = np.bincount(episode[1:][toggled], minlength=episode[-1] + 1)[np.unique(episode)]
    numbers[f"{name} toggles"] = float(counts.mean())
    if not counts.any():
        if recording.spec and recording.spec.gripper.startswith("always"):
            return []  # the adapter says that this robot does not use it
        state = "above" if above.all() else "below" if not above.any() else "on either side of"
        return [("warning", f"{name} never toggles: it stays {state} the middle of its range")]
    # Chatter is a toggle that the very next step takes back.
    taken_back = toggled[1:] & toggled[:-1]
    share = taken_back.sum() / toggled.sum()
    if share > 0.2:
        first = recording.place(int(recording.rows[1 + np.flatnonzero(taken_back)[0]]))
        text = f"{name} chatters: {percent(share)} of its toggles are taken back at the next step"
        return [("warning", f"{text}, first at {first}")]
    if (counts == 0).mean() > 0.5:
        return [("note", f"{name} does not toggle in {percent((counts == 0).mean())} of episodes")]
    return []


def _sign(recording: Recording, name: str, above: Bool[np.ndarray, " k"]) -> list[Symptom]:
    """Most manipulation begins with an open gripper; where most begins closed, say so."""
    convention = recording.spec.gripper if recording.spec else ""
    says = _OPEN.search(convention)
    if says is None or above.all() or not above.any():
        return []
    episode = recording.columns.episode[recording.rows]
    first = np.diff(episode, prepend=-1) != 0
    is_open = above[first] == (says.group(1) == "1")
    if first.sum() < 5 or is_open.mean() >= 0.25:
        return []
    text = (
        f"{name} is closed at the start of {percent(1 - is_open.mean())} of the episodes by the "
        f"adapter's convention ({convention}): its sign may be inverted"
    )
    return [("warning", text)]


def idle(recording: Recording) -> Finding:
    """Counts the steps without motion: training on many of them teaches a robot to freeze."""
    if not len(recording.rows):
        return conclude("idle frames", [], "there is no action to look at")
    still = _still(recording)
    share = still.mean()
    rows, episode = recording.rows, recording.columns.episode[recording.rows]
    numbers = {"idle": float(share)}
    text = f"{percent(share)} of the steps do not move"
    symptoms: list[Symptom] = []
    if share > 0.2:
        per_episode = np.bincount(episode, weights=still) / np.maximum(np.bincount(episode), 1)
        worst = recording.place(int(rows[np.searchsorted(episode, np.argmax(per_episode))]))
        symptoms = [
            ("warning" if share > 0.5 else "note", f"{text}, most in the episode of {worst}")
        ]
    return conclude("idle frames", symptoms, text, score=1 - share, numbers=numbers)


def _still(recording: Recording) -> Bool[np.ndarray, " k"]:
    """Steps where no dimension does more than 1% of what it usually does, grippers included."""
    values = recording.values
    episode = recording.columns.episode[recording.rows]
    change = np.abs(np.diff(values, axis=0, prepend=values[:1]))
    change[np.diff(episode, prepend=-1) != 0] = 0
    low, high = recording.quantiles
    still = np.ones(len(values), bool)
    for k in (*recording.ranged, *recording.grippers):
        if k in recording.grippers:
            still &= change[:, k] <= _STILL * np.ptp(values[:, k])
        elif recording.dead[k]:
            continue
        elif recording.spec is None or " per " in recording.spec.units[k]:
            still &= np.abs(values[:, k]) <= _STILL * max(abs(low[k]), abs(high[k]))
        else:  # a target pose or angle: motion is its change, small against its range
            still &= change[:, k] <= 0.1 * _STILL * (high[k] - low[k])
    return still


def _mean(sound: Int[np.ndarray, " i"]) -> float:
    return float(np.mean(sound)) if len(sound) else 1.0
