"""Checks of what people and models look at: the instructions and the pictures."""

from collections.abc import Callable

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.core.words import is_blank
from vla_jax.data import images
from vla_jax.data.doctor.finding import Finding, Symptom, conclude, listed, percent
from vla_jax.data.doctor.recording import Recording

SAMPLE = 400  # pictures of each camera, unless all are asked for
_BLANK = 2.0  # standard deviation of the grey values, of 255: less shows nothing


def language(recording: Recording) -> Finding:
    """Looks for steps without an instruction, and for a dataset that says only one thing."""
    if not recording.texts:
        text = "the dataset has no language feature"
        return conclude("language", [("error", text)], "", score=0)
    empty = np.ones(len(recording), bool)
    for ids, texts in recording.texts.values():
        empty &= np.array([is_blank(text) for text in texts], bool)[ids]
    share = float(empty.mean())
    said = {text for _, texts in recording.texts.values() for text in texts if not is_blank(text)}
    symptoms: list[Symptom] = []
    if share:
        at = recording.place(int(np.flatnonzero(empty)[0]))
        text = f"{percent(share)} of the steps have no instruction, first at {at}"
        symptoms.append(("error" if share > 0.5 else "warning", text))
    if len(said) == 1 and len(recording.lengths) >= 10:
        symptoms.append(("note", f"every episode has the instruction {next(iter(said))!r}"))
    return conclude(
        "language",
        symptoms,
        f"{len(said)} distinct instructions, none empty",
        score=1 - share,
        numbers={"distinct": float(len(said))},
    )


def pictures(
    recording: Recording,
    *,
    everything: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Finding:
    """Decodes pictures of every camera: damaged ones are errors, blank ones are named.

    Args:
      recording: what to look at.
      everything: all pictures; else evenly spaced ones, the first and the last among them.
      on_progress: (what, done, total).
    """
    count = len(recording)
    chosen = np.arange(count) if everything else _spread(count, SAMPLE)
    symptoms: list[Symptom] = []
    damaged = 0
    for camera in recording.cameras:
        broken: list[str] = []
        blank: list[int] = []
        shapes: set[tuple[int, ...]] = set()
        for done, i in enumerate(chosen.tolist()):
            if on_progress:
                on_progress(f"pictures of {camera}", done + 1, len(chosen))
            try:
                picture = images.decode(recording.image(camera, i), recording.place(i))
            except UserError as error:
                broken.append(str(error).rstrip("."))
                continue
            shapes.add(picture.shape)
            if picture.std() < _BLANK:
                blank.append(i)
        damaged += len(broken)
        symptoms += _symptoms(recording, camera, len(chosen), broken, blank, shapes)
    looked = len(chosen) * len(recording.cameras)
    if not looked:
        return conclude("pictures", [("error", "the dataset has no camera")], "", score=0)
    part = "all" if everything or len(chosen) == count else f"{looked} evenly spaced"
    return conclude(
        "pictures",
        symptoms,
        f"{part} pictures of {listed(recording.cameras)} can be decoded",
        score=1 - damaged / looked,
        numbers={"decoded": float(looked - damaged), "damaged": float(damaged)},
    )


def _symptoms(
    recording: Recording,
    camera: str,
    looked: int,
    broken: list[str],
    blank: list[int],
    shapes: set[tuple[int, ...]],
) -> list[Symptom]:
    symptoms: list[Symptom] = []
    if broken:
        text = f"{camera}: {len(broken)} of {looked} pictures are damaged, first {broken[0]}"
        symptoms.append(("error", text))
    if blank:
        share = len(blank) / looked
        text = f"{camera}: {percent(share)} of the pictures are of one colour, first at "
        severity = "warning" if share > 0.05 else "note"
        symptoms.append((severity, text + recording.place(blank[0])))
    if len(shapes) > 1:
        sizes = listed([f"{h}x{w}" for h, w, _ in sorted(shapes)])
        symptoms.append(("note", f"{camera}: pictures of several sizes, {sizes}"))
    return symptoms


def _spread(count: int, most: int) -> Int[np.ndarray, " n"]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
