"""What can be asked about a picture of blocks, and the answer, computed from where they stand."""

from typing import NamedTuple

import numpy as np

from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.scene import extremes
from vla_jax.envs.tabletop.world import Block

KINDS = (
    "locate",
    "colour",
    "shape",
    "relation",
    "exist",
    "count",
    "quadrant",
    "caption",
    "synonym",
    "extreme",
    "symbol",
)
TWO_BLOCK_KINDS = ("relation", "extreme")
LOCATIONS = 256  # location values, as many as an action dimension has bins by default
_NUMBERS = ("one", "two", "three", "four")
_SIDES = {  # side -> the middle of its edge zone, x and y as shares of the table
    "left": (0.125, 0.5),
    "right": (0.875, 0.5),
    "top": (0.5, 0.125),
    "bottom": (0.5, 0.875),
}


class Picture(NamedTuple):
    """What a question is asked about: blocks and their centres, float [blocks, 2] in metres."""

    blocks: tuple[Block, ...]
    positions: np.ndarray


def ask(
    rng: np.random.Generator,
    kind: str,
    picture: Picture,
    *,
    synonym_rate: float,
    location_levels: int,
) -> tuple[str, str]:
    """Asks about a picture.

    Args:
      rng: chooses the block, the words and the variant.
      kind: one of `KINDS`; those of `TWO_BLOCK_KINDS` need two blocks.
      picture: what is seen.
      synonym_rate: probability that a colour or a shape is asked about by its synonym.
      location_levels: cells per axis that a location is rounded to.

    Returns:
      Question and answer, both in lower case words; a location is `<locXXXX><locYYYY>`.
    """
    if kind == "relation":
        return _ask_relation(rng, picture)
    if kind == "extreme":
        return _ask_extreme(rng, picture, location_levels)
    if kind == "symbol":
        return _ask_symbol(rng, location_levels)
    if kind == "exist":
        return _ask_exist(rng, picture, synonym_rate)
    if kind == "count":
        return "how many objects", _NUMBERS[len(picture.blocks) - 1]
    if kind == "caption":
        order = np.argsort(picture.positions[:, 0])
        return "describe the scene", " ".join(picture.blocks[int(i)].name for i in order)
    return _ask_block(rng, kind, picture, synonym_rate, location_levels)


def _ask_block(
    rng: np.random.Generator, kind: str, picture: Picture, synonym_rate: float, levels: int
) -> tuple[str, str]:
    """The kinds that are about one block."""
    index = int(rng.integers(len(picture.blocks)))
    block, position = picture.blocks[index], picture.positions[index]
    colour, shape = _mention(rng, block, synonym_rate)
    match kind:
        case "locate":
            return f"locate the {colour} {shape}", location(position, levels)
        case "colour":
            return f"what color is the {shape}", block.colour
        case "shape":
            return f"what shape is the {colour} object", block.shape
        case "quadrant":
            return f"where is the {colour} {shape}", quadrant(position)
        case "synonym":
            if rng.random() < 0.5:
                return f"another word for {world.COLOUR_SYNONYMS[block.colour]}", block.colour
            return f"another word for {world.SHAPE_SYNONYMS[block.shape]}", block.shape
        case _:
            raise ValueError(f"unknown kind of question {kind!r}")


def _mention(rng: np.random.Generator, block: Block, rate: float) -> tuple[str, str]:
    """The words for a block's colour and shape, each a synonym at the given rate."""
    is_synonym = rng.random(2) < rate
    return (
        world.COLOUR_SYNONYMS[block.colour] if is_synonym[0] else block.colour,
        world.SHAPE_SYNONYMS[block.shape] if is_synonym[1] else block.shape,
    )


def _ask_relation(rng: np.random.Generator, picture: Picture) -> tuple[str, str]:
    """Two blocks: left of, right of, above, below; more: leftmost and so on.

    Of the two axes it asks about one on which the answer stands clear of the next block.
    """
    is_low = bool(rng.random() < 0.5)
    ends = np.sort(picture.positions, axis=0)
    gaps = ends[1] - ends[0] if is_low else ends[-1] - ends[-2]
    axis = int(rng.integers(2))
    if gaps[axis] < world.CLEAR_GAP:
        axis = int(np.argmax(gaps))
    order = np.argsort(picture.positions[:, axis])
    answer = picture.blocks[order[0 if is_low else -1]]
    if len(order) > 2:
        words = (("leftmost", "topmost"), ("rightmost", "bottommost"))
        return f"which object is {words[not is_low][axis]}", answer.name
    words = (("left of", "above"), ("right of", "below"))
    reference = picture.blocks[order[1 if is_low else 0]]
    return f"which object is {words[not is_low][axis]} the {reference.name}", answer.name


def _ask_extreme(rng: np.random.Generator, picture: Picture, levels: int) -> tuple[str, str]:
    """Where the leftmost object is, and so on; where no block stands clear, the best there is."""
    words = [(word, i) for i, found in extremes(picture.positions).items() for word in found]
    if not words:
        return "locate the leftmost object", location(
            picture.positions[np.argmin(picture.positions[:, 0])], levels
        )
    word, index = words[rng.integers(len(words))]
    return f"locate the {word} object", location(picture.positions[index], levels)


def _ask_symbol(rng: np.random.Generator, levels: int) -> tuple[str, str]:
    """What a symbol of a side means, in words and as a place; plain sides are located as well."""
    side = world.DIRECTIONS[rng.integers(len(world.DIRECTIONS))]
    place = location(np.array(_SIDES[side]) * world.TABLE_SIZE, levels)
    asked = (
        (f"what side is {world.SYMBOLS[side]}", side),
        (f"what is the {side} called", world.SYMBOLS[side]),
        (f"locate the {world.SYMBOLS[side]}", place),
        (f"locate the {side}", place),
    )
    return asked[rng.integers(len(asked))]


def _ask_exist(rng: np.random.Generator, picture: Picture, synonym_rate: float) -> tuple[str, str]:
    """Half about a block that is there, half about one that is not; synonyms in both alike."""
    is_there = bool(rng.random() < 0.5)
    while True:
        if is_there:
            block = picture.blocks[rng.integers(len(picture.blocks))]
        else:
            colour = list(world.COLOURS)[rng.integers(len(world.COLOURS))]
            block = Block(colour, world.SHAPES[rng.integers(len(world.SHAPES))])
        if is_there == (block in picture.blocks):
            colour, shape = _mention(rng, block, synonym_rate)
            return f"is there a {colour} {shape}", "yes" if is_there else "no"


def location(position: np.ndarray, levels: int) -> str:
    """Writes a point as two location values, x then y.

    Args:
      position: float [2], x, y in metres, table frame.
      levels: cells per axis; a value is the centre of its cell among `LOCATIONS`.

    Returns:
      For example `<loc0120><loc0040>`.
    """
    cells = np.clip((np.asarray(position) / world.TABLE_SIZE * levels).astype(int), 0, levels - 1)
    return "".join(f"<loc{int((cell + 0.5) * LOCATIONS / levels):04d}>" for cell in cells)


def quadrant(position: np.ndarray) -> str:
    """Names the quarter of the table that a point in metres lies in, e.g. `top left`."""
    half = world.TABLE_SIZE / 2
    return (
        f"{'top' if position[1] < half else 'bottom'} {'left' if position[0] < half else 'right'}"
    )
