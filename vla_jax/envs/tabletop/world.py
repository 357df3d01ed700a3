"""The constants and the words of the tabletop: lengths in metres, colours, shapes, splits, tasks.

Frame "table": the origin is the top left corner of the table as the image shows it, x to the
right, y towards the camera (down in the image), z up. Every length is in metres.
"""

from typing import Annotated, Literal, NamedTuple

from vla_jax.core.errors import UserError
from vla_jax.core.fields import Range

TABLE_SIZE = 0.40
BLOCK_SIZE = 0.22 * TABLE_SIZE
GRASP_RADIUS = 0.09 * TABLE_SIZE  # fingers closing this close to a block's centre hold it
EDGE_ZONE = 0.24 * TABLE_SIZE  # "to the left": the centre is within this of the left edge
NEAR_DISTANCE = 0.34 * TABLE_SIZE  # "near": centre distance on release
NEAR_START_MARGIN = 0.05 * TABLE_SIZE  # near tasks start at least this much further apart
STACK_DISTANCE = 0.10 * TABLE_SIZE  # "on": centre distance on release, seen from above
MIN_SEPARATION = 0.27 * TABLE_SIZE  # centre distance of any two blocks in a new layout
BLOCK_START = (0.12 * TABLE_SIZE, 0.88 * TABLE_SIZE)
BLOCK_LIMITS = (0.05 * TABLE_SIZE, 0.95 * TABLE_SIZE)
GRIPPER_START = (0.10 * TABLE_SIZE, 0.90 * TABLE_SIZE)
GRIPPER_LIMITS = (0.02 * TABLE_SIZE, 0.98 * TABLE_SIZE)
HEIGHT_START = 0.10
HEIGHT_LIMITS = (0.0, 0.30)

CLEAR_GAP = 0.05 * TABLE_SIZE  # "leftmost": the next block is at least this much less to the left

Split = Literal[
    "seen",
    "new_combination",
    "new_colour",
    "new_shape",
    "new_both",
    "synonym",
    "relation",
    "symbol",
]
Task = Literal["pick", "side", "near", "stack", "two_stage"]
SPLITS: tuple[Split, ...] = (
    "seen",
    "new_combination",
    "new_colour",
    "new_shape",
    "new_both",
    "synonym",
    "relation",
    "symbol",
)
DEFAULT_SPLITS = SPLITS[:6]  # words of the others may not fit a run that never read them
TASKS: tuple[Task, ...] = ("pick", "side", "near", "stack", "two_stage")
DEFAULT_TASKS: tuple[Task, ...] = ("pick", "side", "near")
TWO_BLOCK_TASKS: tuple[Task, ...] = ("near", "stack", "two_stage")
STAGES: dict[Task, int] = {"pick": 1, "side": 1, "near": 1, "stack": 1, "two_stage": 2}
DIRECTIONS = ("left", "right", "top", "bottom")
# What a block is that lies at the end of an axis: word -> axis, and whether its end is the low one.
EXTREMES: dict[str, tuple[int, bool]] = {
    "leftmost": (0, True),
    "rightmost": (0, False),
    "topmost": (1, True),
    "bottommost": (1, False),
}
SYMBOLS = {"left": "alpha", "right": "beta", "top": "gamma", "bottom": "delta"}
SYMBOL_TASKS: tuple[Task, ...] = ("side",)  # those whose instruction names a side and nothing else
SIDE_GOAL = 0.10 * TABLE_SIZE  # the expert puts a block this far from the named edge
EVALUATION_BLOCKS = (2, 3)  # with one block on the table the words would not matter
MAX_BLOCKS = 4  # four seen colours, and no two blocks of a scene share one
Blocks = Annotated[int, Range(1, MAX_BLOCKS)]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 40),
    "green": (36, 160, 60),
    "blue": (40, 74, 226),
    "yellow": (244, 212, 30),
    "purple": (140, 44, 186),
    "orange": (248, 132, 22),
    "cyan": (30, 202, 214),
    "pink": (250, 130, 196),
}
SHAPES = ("cube", "ball", "star", "triangle", "heart", "cross", "moon", "ring")
COLOUR_SYNONYMS = {
    "red": "crimson",
    "green": "emerald",
    "blue": "navy",
    "yellow": "golden",
    "purple": "violet",
    "orange": "tangerine",
    "cyan": "turquoise",
    "pink": "rosy",
}
SHAPE_SYNONYMS = {
    "cube": "block",
    "ball": "sphere",
    "star": "asterisk",
    "triangle": "wedge",
    "heart": "love",
    "cross": "plus",
    "moon": "crescent",
    "ring": "donut",
}


class Block(NamedTuple):
    """A block's identity; its name is two plain words."""

    colour: str
    shape: str

    @property
    def name(self) -> str:
        """The plain name, e.g. `red cube`."""
        return f"{self.colour} {self.shape}"

    @property
    def synonym(self) -> str:
        """The same block in words that no robot episode uses, e.g. `crimson block`."""
        return f"{COLOUR_SYNONYMS[self.colour]} {SHAPE_SYNONYMS[self.shape]}"


SEEN_COLOURS = ("red", "green", "blue", "yellow")
SEEN_SHAPES = ("cube", "ball", "star", "triangle")
NEW_COLOURS = ("purple", "orange", "cyan", "pink")
NEW_SHAPES = ("heart", "cross", "moon", "ring")
# One per row and one per column of the seen 4 x 4, so that robot data shows every seen colour
# and every seen shape, and never these pairs.
HELD_OUT = (
    Block("red", "star"),
    Block("green", "cube"),
    Block("blue", "triangle"),
    Block("yellow", "ball"),
)
SEEN = tuple(
    Block(colour, shape)
    for colour in SEEN_COLOURS
    for shape in SEEN_SHAPES
    if Block(colour, shape) not in HELD_OUT
)
TARGETS: dict[Split, tuple[Block, ...]] = {
    "seen": SEEN,
    "synonym": SEEN,
    "relation": SEEN,
    "symbol": SEEN,
    "new_combination": HELD_OUT,
    "new_colour": tuple(Block(c, s) for c in NEW_COLOURS for s in SEEN_SHAPES),
    "new_shape": tuple(Block(c, s) for c in SEEN_COLOURS for s in NEW_SHAPES),
    "new_both": tuple(Block(c, s) for c in NEW_COLOURS for s in NEW_SHAPES),
}


def tasks_of(split: Split, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """Returns those of `tasks` that have an instruction in the words of a split."""
    return tuple(task for task in tasks if task in SYMBOL_TASKS or split != "symbol")


def check_scene_options(split: str, tasks: tuple[str, ...], blocks: tuple[int, ...]) -> None:
    """Refuses a combination of split, tasks and block counts that has no scene.

    Args:
      split: one of `SPLITS`.
      tasks: at least one of `TASKS`.
      blocks: smallest and largest number of blocks.

    Raises:
      UserError: unknown split or task, or a block range out of order or too small for the tasks.
    """
    if split not in SPLITS:
        raise UserError("tabletop split", expected=f"one of {SPLITS}", found=repr(split))
    if not tasks:
        raise UserError("tabletop tasks", expected=f"some of {TASKS}", found="none")
    for task in tasks:
        if task not in TASKS:
            raise UserError("tabletop task", expected=f"one of {TASKS}", found=repr(task))
    if len(blocks) != 2 or not 1 <= blocks[0] <= blocks[1] <= MAX_BLOCKS:
        raise UserError(
            "tabletop blocks",
            expected=f"(fewest, most) with 1 <= fewest <= most <= {MAX_BLOCKS}",
            found=blocks,
        )
    if split == "symbol" and not set(tasks) & set(SYMBOL_TASKS):
        raise UserError(
            "tabletop tasks of the split symbol", expected=f"{SYMBOL_TASKS} among them", found=tasks
        )
    if blocks[1] < 2 and (split == "relation" or all(t in TWO_BLOCK_TASKS for t in tasks)):
        what = "split relation needs" if split == "relation" else f"tasks {tasks} need"
        raise UserError(
            f"tabletop {what} two blocks",
            expected="blocks of at most 2 or more",
            found=f"blocks {blocks}",
            fix="Raise the second number of blocks",
        )
