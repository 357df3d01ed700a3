"""Frames of films that hold one or many episodes."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vla_jax.core import packages
from vla_jax.core.arrays import Float, Int, UInt8
from vla_jax.core.errors import UserError
from vla_jax.data.ingest.encoding import check_size
from vla_jax.data.ingest.refusal import AGAIN, refusing
from vla_jax.runtime import progress


class Span(NamedTuple):
    """Where the frames of one episode are.

    Attributes:
      path: the film.
      first: how many frames the episodes before it in the film have.
      total: how many frames all episodes of the film have.
      start: when its first frame is shown, by the metadata, seconds.
    """

    path: Path
    first: int
    total: int
    start: float


class _Shown(NamedTuple):
    """When the frames of a film are shown, ascending: in ticks and in seconds."""

    ticks: Int[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    tick: float


class Films:
    """Finds the frames of episodes.

    A film that has as many frames as its episodes have steps is counted: frame k belongs to step
    k, whatever the time stamps say, for they are rounded and drift. In any other film, the frame
    nearest to each time stamp is taken, if it is near enough.

    Args:
      purpose: who reads, for the message that PyAV is missing.
      fps: frames per second of the dataset.
      tolerance: how far the nearest frame may be, seconds; LeRobot's `tolerance_s`.
    """

    def __init__(self, purpose: str, *, fps: float, tolerance: float):
        """Imports PyAV.

        Raises:
          UserError: it is missing, or the tolerance lets a neighbour pass for the right frame.
        """
        if not 0 <= tolerance < 0.5 / fps:
            raise UserError(
                "--tolerance_s",
                expected=f"0 to less than {0.5 / fps:.4g} s, half a frame",
                found=tolerance,
            )
        self._av = packages.load("av", purpose)
        self._av.logging.set_level(None)  # FFmpeg's own lines; what counts is raised
        self._fps, self._tolerance = fps, tolerance
        self._shown = functools.lru_cache(maxsize=16)(self._read_times)
        self._told: set[Path] = set()

    def frames(
        self, span: Span, times: Float[np.ndarray, " t"], place: str
    ) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
        """Decodes the frames of one episode, one at a time.

        Args:
          span: where they are.
          times: when each is shown, seconds from the start of the episode, ascending.
          place: feature and episode, for messages.

        Yields:
          Per time, its frame.

        Raises:
          UserError: the film is missing, damaged or cut off, or has no frame near one of the times.
        """
        place = f"{place} in {span.path}"
        shown = self._shown(span.path)
        if len(shown.ticks) == span.total:
            wanted = self._counted(shown, span, times, place)
        else:
            wanted = self._nearest(shown, span, times, place)
        yield from self._decode(span.path, shown.ticks[wanted], place)

    def _counted(
        self, shown: _Shown, span: Span, times: np.ndarray, place: str
    ) -> Int[np.ndarray, " t"]:
        wanted = span.first + np.arange(len(times))
        apart = shown.seconds[wanted] - (span.start + times)
        spread = np.ptp(apart) if len(apart) else 0.0
        if spread > 0.5 / self._fps:
            raise UserError(
                f"{place}: film and time stamps run at different speeds",
                expected=f"frames {1 / self._fps:.4g} s apart",
                found=f"a difference that grows by {spread:.3g} s within the episode",
                fix="Fetch the dataset again",
            )
        worst = float(np.abs(apart).max()) if len(apart) else 0.0
        if worst > max(self._tolerance, shown.tick) and span.path not in self._told:
            self._told.add(span.path)
            progress.note(
                f"{place}: time stamps are off by {worst * self._fps:.2g} frames; the film has as "
                "many frames as its episodes have steps, so they are counted"
            )
        return wanted

    def _nearest(
        self, shown: _Shown, span: Span, times: np.ndarray, place: str
    ) -> Int[np.ndarray, " t"]:
        ask = span.start + times
        after = np.clip(np.searchsorted(shown.seconds, ask), 1, max(1, len(shown.ticks) - 1))
        near = np.stack([after - 1, np.minimum(after, len(shown.ticks) - 1)])
        apart = np.abs(shown.seconds[near] - ask)
        wanted = np.where(apart[0] <= apart[1], near[0], near[1])
        late = apart.min(0) > max(self._tolerance, shown.tick)
        if late.any():
            t = int(np.argmax(late))
            raise UserError(
                f"{place} step {t}: no frame at {ask[t]:.3f} s",
                expected=f"one within {max(self._tolerance, shown.tick):.3g} s",
                found=f"{len(shown.ticks)} frames for {span.total} steps, the nearest at "
                f"{shown.seconds[wanted[t]]:.3f} s",
                fix="The film is cut off, or frames were dropped: fetch it again; if its time "
                "stamps are only rounded, allow more with --tolerance_s",
            )
        return wanted

    def _read_times(self, path: Path) -> _Shown:
        with _opened(self._av, path) as (container, stream):
            ticks = [
                packet.pts
                for packet in container.demux(stream)
                if packet.pts is not None and not packet.is_discard
            ]
            tick = float(stream.time_base)
            check_size(stream.height, stream.width)
        if not ticks:
            raise UserError(f"{path}: a film without frames", fix=AGAIN)
        found = np.array(sorted(ticks), np.int64)
        if (np.diff(found) <= 0).any():
            raise UserError(f"{path}: two frames are shown at the same time", fix=AGAIN)
        return _Shown(found, found * tick, tick)

    def _decode(
        self, path: Path, ticks: np.ndarray, place: str
    ) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
        if not len(ticks):
            return
        with _opened(self._av, path) as (container, stream):
            # Else a damaged frame is patched up with what its neighbours show.
            stream.codec_context.options = {"err_detect": "explode"}
            container.seek(int(ticks[0]), stream=stream)
            decoded = (frame for frame in container.decode(stream) if frame.pts is not None)
            frame = None
            for t, tick in enumerate(ticks.tolist()):
                while frame is None or frame.pts < tick:
                    frame = next(decoded, None)
                    if frame is None:
                        break
                if frame is None or frame.pts != tick or frame.is_corrupt:
                    raise UserError(f"{place} step {t}: the frame is damaged", fix=AGAIN)
                yield frame.to_ndarray(format="rgb24")


@contextlib.contextmanager
def _opened(av: Any, path: Path) -> Iterator[tuple[Any, Any]]:
    """Opens a film: the container, and the stream of pictures in it."""
    if not path.is_file():
        raise UserError(f"{path}: no such film", fix="Fetch the whole dataset")
    with refusing(f"{path} cannot be decoded"), av.open(str(path)) as container:
        if not container.streams.video:
            raise UserError(f"{path}: no video in it", fix=AGAIN)
        yield container, container.streams.video[0]
