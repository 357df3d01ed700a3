"""Frames of a video at given times."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core.arrays import Float, UInt8
from vla_jax.core.errors import UserError


def frames(
    av: Any, path: Path, times: Float[np.ndarray, " t"], *, tolerance: float, place: str
) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
    """Decodes the frames of one episode, one at a time.

    Args:
      av: PyAV.
      path: the video, of one or many episodes.
      times: when each wanted frame is shown, seconds, ascending.
      tolerance: how far the nearest frame may be, seconds.
      place: feature and episode, for messages.

    Yields:
      Per time, the nearest frame.

    Raises:
      UserError: the video is missing or damaged, or has no frame near one of the times.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{place}: no video in {path}")
            stream = container.streams.video[0]
            # Lands on the key frame at or before; one tick less, since times are rounded.
            container.seek(max(0, int(times[0] / stream.time_base) - 1), stream=stream)
            yield from _nearest(container.decode(stream), times, tolerance, f"{place} in {path}")
    except av.FFmpegError as error:
        raise UserError(
            f"{place}: {path} cannot be decoded ({error})", fix="Fetch the file again"
        ) from error


def _nearest(
    decoded: Iterable[Any], times: np.ndarray, tolerance: float, place: str
) -> Iterator[np.ndarray]:
    """Walks the decoded frames beside the wanted times."""
    shown = (frame for frame in decoded if frame.pts is not None)
    before, after = None, next(shown, None)
    for t, time in enumerate(times):
        while after is not None and after.time < time:
            before, after = after, next(shown, None)
        near = [frame for frame in (before, after) if frame is not None]
        frame = min(near, key=lambda frame: abs(frame.time - time), default=None)
        if frame is None or abs(frame.time - time) > tolerance:
            raise UserError(
                f"{place} step {t}: no frame at {time:.3f} s",
                expected=f"one within {tolerance:.3g} s",
                found="the end of the video" if frame is None else f"{frame.time:.3f} s",
                fix="The video is shorter than the table, or frames were dropped: fetch it again",
            )
        yield frame.to_ndarray(format="rgb24")
