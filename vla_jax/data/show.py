"""Exactly what the model sees of a batch, as one picture: images, tokens, loss mask, actions."""

import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla_jax.core import files
from vla_jax.core.arrays import UInt8
from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN, Batch
from vla_jax.core.errors import UserError
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast_tokens import FastTokens

_TILE, _GAP, _COLUMNS, _TEXT = 168, 8, 3, 900  # pixels; images side by side before a new line
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece and its kin spell a space
_PLACEHOLDERS = {IMAGE_TOKEN: "<image>", STATE_TOKEN: "<state>"}
_INK, _FAINT, _LINE = (30, 32, 36), (120, 124, 130), (214, 217, 221)
_GREEN, _GREY, _BLUE = (190, 230, 198), (226, 228, 231), (221, 231, 245)
# Matplotlib brings these along; they have letters beyond Latin-1, which Pillow's own lacks.
_FONTS = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_SANS, _BOLD, _MONO = (
    ImageFont.truetype(str(_FONTS / f"DejaVuSans{style}.ttf"), size)
    for style, size in (("", 11), ("-Bold", 12), ("Mono", 12))
)


@dataclasses.dataclass(frozen=True)
class _Chip:
    """One token: its text in a coloured box, and what it means below."""

    text: str
    colour: tuple[int, int, int]
    captions: tuple[str, ...] = ()
    least: int = 0  # width, for columns of chips

    @property
    def width(self) -> int:
        lengths = [_MONO.getlength(self.text) + 8, *(_SANS.getlength(c) for c in self.captions)]
        return max(int(max(lengths)) + 4, self.least)

    @property
    def height(self) -> int:
        return 22 + 14 * len(self.captions)

    def draw(self, pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
        box = (x, y, x + _MONO.getlength(self.text) + 8, y + 18)
        pen.rounded_rectangle(box, 3, fill=self.colour)
        pen.text((x + 4, y + 2), self.text, _INK, _MONO)
        for line, caption in enumerate(self.captions):
            pen.text((x + 1, y + 21 + 14 * line), caption, _FAINT if line != 1 else _INK, _SANS)


def picture(
    batch: Batch,
    encoder: Encoder,
    *,
    rows: int,
    sources: Sequence[str],
    views: Sequence[str] = (),
) -> UInt8[np.ndarray, "y x 3"]:
    """Draws the first examples of a batch, one below the other.

    Each has its images (augmented, of the model's size; an absent view is hatched), its prefix
    tokens, and its suffix tokens: green where the loss looks, grey where it does not. Below the
    tokens of a robot stand the actions that they decode to, in robot units.

    Args:
      batch: on the host or on one device.
      encoder: the one that wrote the batch.
      rows: how many examples at most.
      sources: the names of the mixture's sources, by the numbers in `batch.source`.
      views: the names of the image slots, in order; numbers stand in for missing ones.

    Returns:
      uint8 RGB, 0..255.

    Raises:
      UserError: the batch has another number of text slots, or more sources, than the encoder
        and the names; or `rows` is not positive.
    """
    _check(batch, encoder, rows, sources)
    blocks = [
        _example(batch, i, encoder, sources[int(batch.source[i])], views)
        for i in range(min(rows, len(batch.tokens)))
    ]
    width = max(block.width for block in blocks)
    page = Image.new("RGB", (width, 34 + sum(block.height for block in blocks)), "white")
    _legend(ImageDraw.Draw(page), len(blocks), len(batch.tokens))
    y = 34
    for block in blocks:
        page.paste(block, (0, y))
        y += block.height
    return np.asarray(page)


def save(image: UInt8[np.ndarray, "y x 3"], path: str | os.PathLike[str]) -> None:
    """Writes a picture as PNG, whole or not at all; makes its folder."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    files.write_whole(path, encoded.getvalue())


def _check(batch: Batch, encoder: Encoder, rows: int, sources: Sequence[str]) -> None:
    slots = encoder.layout.prefix + encoder.layout.suffix
    if batch.tokens.shape[1] != slots:
        raise UserError(
            "picture of a batch: text slots", expected=slots, found=batch.tokens.shape[1]
        )
    if rows < 1:
        raise UserError("picture of a batch: rows", expected="at least 1", found=rows)
    largest = int(np.max(batch.source))
    if largest >= len(sources):
        raise UserError(
            "picture of a batch: source names", expected=f"{largest + 1} names", found=len(sources)
        )


def _legend(pen: ImageDraw.ImageDraw, shown: int, total: int) -> None:
    pen.text((_GAP, 9), f"{shown} of {total} examples of the batch", _INK, _BOLD)
    x = _GAP + 260
    for text, colour in (("prefix", _BLUE), ("in the loss", _GREEN), ("not in the loss", _GREY)):
        chip = _Chip(text, colour)
        chip.draw(pen, x, 7)
        x += chip.width + _GAP


def _example(
    batch: Batch, i: int, encoder: Encoder, source: str, views: Sequence[str]
) -> Image.Image:
    pictures, present = np.asarray(batch.images[i]), np.asarray(batch.image_mask[i])
    columns = min(_COLUMNS, len(pictures))
    left = _GAP + columns * (_TILE + _GAP)
    lines = -(-len(pictures) // columns)
    # Measured first, by writing onto a page that is too small.
    bottom = _text(ImageDraw.Draw(Image.new("RGB", (1, 1))), batch, i, encoder, source, left)
    width, height = left + _TEXT + _GAP, max(bottom, lines * (_TILE + 18)) + 2 * _GAP
    block = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(block)
    pen.line((0, 0, width, 0), _LINE)
    for slot, (pixels, seen) in enumerate(zip(pictures, present, strict=True)):
        at = (_GAP + slot % columns * (_TILE + _GAP), _GAP + slot // columns * (_TILE + 18))
        block.paste(_tile(pixels) if seen else _hatched(), at)
        name = views[slot] if slot < len(views) else f"view {slot}"
        pen.text((at[0], at[1] + _TILE + 2), name if seen else f"{name}: absent", _FAINT, _SANS)
    _text(pen, batch, i, encoder, source, left)
    return block


def _text(
    pen: ImageDraw.ImageDraw, batch: Batch, i: int, encoder: Encoder, source: str, x: int
) -> int:
    """Writes title, prefix and suffix at `x`; returns the y below them."""
    room = encoder.layout.prefix
    tokens, loss = np.asarray(batch.tokens[i]), np.asarray(batch.loss_mask[i])
    used = int(batch.prefix_length[i])
    prefix, suffix, mask = tokens[room - used : room], tokens[room:], loss[room:]
    pad = encoder.tokenizer.special.pad
    title = (
        f"{source}    prefix {used} of {room} tokens, suffix {int((suffix != pad).sum())} of "
        f"{len(suffix)}, {int(mask.sum())} in the loss"
    )
    pen.text((x, _GAP), title, _FAINT, _SANS)
    words = _fit(encoder.tokenizer.decode(prefix[prefix >= 0].tolist()).strip(), _BOLD)
    pen.text((x, _GAP + 18), words, _INK, _BOLD)
    chips = [
        _Chip(name if count == 1 else f"{name} x {count}", _BLUE)
        for name, count in _runs([_spell(token, encoder) for token in prefix])
    ]
    y = _flow(pen, [chips], x, _GAP + 40) + 6
    actions = encoder.actions.get(source)
    lines = (
        [_word_line(suffix, mask, encoder)]
        if actions is None
        else _action_lines(suffix, mask, encoder, source)
    )
    y = _flow(pen, lines, x, y)
    if batch.state is not None and batch.state_mask is not None:
        values = np.asarray(batch.state[i])[np.asarray(batch.state_mask[i])]
        pen.text((x, y), _fit(f"state in [-1, 1]: {_numbers(values)}", _SANS), _INK, _SANS)
        y += 18
    return y


def _action_lines(
    suffix: np.ndarray, mask: np.ndarray, encoder: Encoder, source: str
) -> list[list[_Chip]]:
    """A line of the plan, one per step of the chunk with each dimension below its token, the rest.

    The tokens of FAST stand in one line, and the numbers below it.
    """
    tokens, string = encoder.actions[source], encoder.split(suffix)[1]
    first = int(np.isin(suffix, string).argmax())
    before = [_word_line(suffix[:first], mask[:first], encoder)] if first else []
    suffix, mask = suffix[first:], mask[first:]
    values, spec = tokens.read(string), tokens.spec
    if isinstance(tokens, FastTokens):
        rows = [[_Chip(_numbers(step), _GREY)] for step in values]
        return [*before, _word_line(suffix, mask, encoder), *rows]
    lines: list[list[_Chip]] = []
    for step in range(encoder.chunk):
        line: list[_Chip] = []
        for k, (name, unit) in enumerate(zip(spec.names, spec.units, strict=True)):
            at = step * spec.size + k
            captions = (name, f"{values[step, k]:+.4g}", *((unit,) if step == 0 else ()))
            chip = _chip(suffix[at], mask[at], encoder, captions)
            # The later steps stand below the first one's dimensions.
            line.append(dataclasses.replace(chip, least=lines[0][k].width if lines else 0))
        lines.append(line)
    rest = _word_line(suffix[len(string) :], mask[len(string) :], encoder)
    return [*before, *lines, rest]


def _word_line(tokens: np.ndarray, mask: np.ndarray, encoder: Encoder) -> list[_Chip]:
    """One chip per token; padding that is not in the loss becomes one chip with its count."""
    said = np.flatnonzero((tokens != encoder.tokenizer.special.pad) | mask)
    end = int(said[-1]) + 1 if len(said) else 0
    line = [_chip(token, seen, encoder) for token, seen in zip(tokens[:end], mask, strict=False)]
    padding = len(tokens) - end
    return [*line, _Chip(f"<pad> x {padding}", _GREY)] if padding else line


def _runs(names: list[str]) -> list[tuple[str, int]]:
    return [(name, len(list(group))) for name, group in itertools.groupby(names)]


def _chip(token: int, seen: bool, encoder: Encoder, captions: tuple[str, ...] = ()) -> _Chip:
    return _Chip(_spell(token, encoder), _GREEN if seen else _GREY, captions)


def _spell(token: int, encoder: Encoder) -> str:
    """Returns how one token reads; a special one by its name, what cannot be read by its id."""
    tokenizer = encoder.tokenizer
    if token < 0:
        return _PLACEHOLDERS[int(token)]
    if token == tokenizer.id("\n"):
        return "\\n"
    if token == tokenizer.id(_SPACE):
        return "\N{OPEN BOX}"
    if token in tokenizer.special.ids:
        return tokenizer.token(int(token))
    return tokenizer.decode([token]).strip() or f"#{token}"


def _flow(pen: ImageDraw.ImageDraw, lines: list[list[_Chip]], x: int, y: int) -> int:
    """Draws lines of chips, wrapping the long ones; returns the y below the last."""
    for line in lines:
        at, tallest = x, 0
        for chip in line:
            if at > x and at + chip.width > x + _TEXT:
                at, y, tallest = x, y + tallest, 0
            chip.draw(pen, at, y)
            at, tallest = at + chip.width + 2, max(tallest, chip.height)
        y += tallest + (2 if tallest else 0)
    return y


def _tile(pixels: np.ndarray) -> Image.Image:
    """Scales pixels for the page; a small image keeps its hard pixels, as the model has them."""
    enlarge = max(pixels.shape[:2]) < _TILE
    kernel = Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((_TILE, _TILE), kernel)


def _hatched() -> Image.Image:
    tile = Image.new("RGB", (_TILE, _TILE), _GREY)
    pen = ImageDraw.Draw(tile)
    for start in range(-_TILE, _TILE, 12):
        pen.line((start, _TILE, start + _TILE, 0), (200, 203, 207), 2)
    return tile


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:+.2f}" for value in values) or "none"


def _fit(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Cuts a text to one line of the page."""
    text = " ".join(text.split())
    while font.getlength(text) > _TEXT:
        text = f"{text[:-4]}..."
    return text
