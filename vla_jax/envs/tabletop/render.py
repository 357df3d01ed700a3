"""A scene as an image: anti-aliased sprites, cached per block, size and sub-pixel phase.

Each sprite is a mask drawn at eight times the resolution and averaged down, composed once of soft
shadow, dark outline and fill; drawing a frame is then one small blend per block. The gripper open
is two jaws, closed one solid bar, narrow enough that a held block stays recognisable.
"""

import functools
import math

import cv2
import numpy as np

from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.scene import Scene
from vla_jax.envs.tabletop.world import Block

BACKGROUND = (206, 204, 198)  # the table, RGB 0..255
_GRIPPER_COLOUR = (24, 24, 28)
_SUPERSAMPLING = 8
_PHASES = 4  # sprites are placed to a quarter of a pixel


def render(scene: Scene, size: int) -> np.ndarray:
    """Draws the scene from above.

    Args:
      scene: what to draw.
      size: side of the image in pixels.

    Returns:
      uint8 [size, size, 3], RGB 0..255, row 0 at the table's far edge (y = 0).
    """
    return draw(
        scene.blocks,
        scene.positions,
        gripper=(float(scene.pose[0]), float(scene.pose[1])),
        closed=scene.closed,
        size=size,
        top=scene.top,
    )


def draw(
    blocks: tuple[Block, ...],
    positions: np.ndarray,
    *,
    gripper: tuple[float, float] | None,
    closed: bool,
    size: int,
    background: tuple[int, int, int] = BACKGROUND,
    top: int = -1,
) -> np.ndarray:
    """Draws blocks and, over them, the gripper.

    Args:
      blocks: what stands on the table.
      positions: float [blocks, 2], centres x, y in metres, table frame.
      gripper: x, y of the gripper in metres, or None to leave it out.
      closed: whether the fingers are closed.
      size: side of the image in pixels.
      background: colour of the table, RGB 0..255.
      top: index of the block to draw over the others, or -1.

    Returns:
      uint8 [size, size, 3], RGB 0..255.
    """
    image = np.empty((size, size, 3), np.uint8)
    image[:] = background
    order = list(range(len(blocks)))
    if top >= 0:
        order.append(order.pop(top))
    for index in order:
        block = blocks[index]
        _paste(image, f"{block.colour}/{block.shape}", positions[index])
    if gripper is not None:
        _paste(image, "gripper/closed" if closed else "gripper/open", gripper)
    return image


def _paste(image: np.ndarray, kind: str, position: np.ndarray | tuple[float, float]) -> None:
    """Blends the sprite `colour/shape` over the image, centred on a position in metres."""
    size = image.shape[0]
    window = _window(size)
    corner = [position[axis] * size / world.TABLE_SIZE - window / 2 for axis in (0, 1)]
    steps = [math.floor(value * _PHASES) for value in corner]
    left, above = steps[0] // _PHASES, steps[1] // _PHASES
    keep, paint = _sprite(kind, size, steps[0] % _PHASES, steps[1] % _PHASES)
    x0, y0 = max(0, -left), max(0, -above)
    x1, y1 = min(window, size - left), min(window, size - above)
    region = image[above + y0 : above + y1, left + x0 : left + x1]
    blend = region * keep[y0:y1, x0:x1]
    blend += paint[y0:y1, x0:x1]
    region[:] = blend


def _window(size: int) -> int:
    """Side of a sprite's window in pixels: the block, its shadow and one pixel of phase."""
    return math.ceil(1.15 * world.BLOCK_SIZE / world.TABLE_SIZE * size) + 2


@functools.lru_cache(maxsize=8192)
def _sprite(kind: str, size: int, phase_x: int, phase_y: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (keep, paint), float32 [window, window, 1 and 3]: image = image * keep + paint."""
    colour_name, shape = kind.split("/")
    fill, outline, shadow = (_average(mask, phase_x, phase_y) for mask in _masks(shape, size))
    colour = np.array(world.COLOURS.get(colour_name, _GRIPPER_COLOUR), np.float32)
    paint = fill * colour + outline * (0.55 * colour)
    solid = fill + outline
    keep = (1 - solid) * (1 - 0.22 * shadow)
    # 0.5 turns the truncation of the float-to-uint8 cast into rounding.
    return keep, paint + 0.5


def _average(mask: np.ndarray, phase_x: int, phase_y: int) -> np.ndarray:
    """Shifts a supersampled mask by the phase and averages it to pixels: float32 [y, x, 1]."""
    shift = _SUPERSAMPLING // _PHASES
    moved = np.roll(mask, (phase_y * shift, phase_x * shift), (0, 1))
    window = mask.shape[0] // _SUPERSAMPLING
    cells = moved.reshape(window, _SUPERSAMPLING, window, _SUPERSAMPLING)
    return cells.mean((1, 3), dtype=np.float32)[..., None]


@functools.lru_cache(maxsize=256)
def _masks(shape: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill, outline and shadow of a shape, float32 0..1, at `_SUPERSAMPLING` times the size."""
    side = _window(size) * _SUPERSAMPLING
    radius = 0.5 * world.BLOCK_SIZE / world.TABLE_SIZE * size * _SUPERSAMPLING
    centre = (np.arange(side) + 0.5 - side / 2) / radius
    x, y = np.meshgrid(centre, centre)
    is_gripper = shape in ("open", "closed")
    solid = (_in_gripper if is_gripper else _in_block)(shape, x, y).astype(np.uint8)
    thickness = max(1, round(0.09 * radius))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness + 1,) * 2)
    fill = cv2.erode(solid, kernel)
    blurred = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 0.10 * radius)
    shift = round(0.10 * radius)
    shadow = np.roll(blurred, (shift, shift // 2), (0, 1))
    if is_gripper:
        shadow = np.zeros_like(shadow)
    return fill.astype(np.float32), (solid - fill).astype(np.float32), shadow


def _in_block(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in the shape; the block reaches from -1 to 1, y down. Bool, as x."""
    radius = np.hypot(x, y)
    match shape:
        case "cube":
            return np.maximum(abs(x), abs(y)) < 0.80
        case "ball":
            return radius < 0.96
        case "ring":
            return (radius < 0.98) & (radius > 0.50)
        case "triangle":
            return (y < 0.80) & (y > -0.96 + 1.76 * abs(x) / 0.98)
        case "cross":
            return (np.minimum(abs(x), abs(y)) < 0.31) & (np.maximum(abs(x), abs(y)) < 0.96)
        case "heart":
            u, v = 1.18 * x, -1.18 * y + 0.12
            return (u**2 + v**2 - 1) ** 3 < u**2 * v**3
        case "moon":
            return (radius < 0.98) & (np.hypot(x - 0.52, y + 0.18) > 0.80)
        case "star":
            # Within one fifth of a turn a star is the side of a straight line through a tip
            # (radius 1) and the neighbouring notch (radius 0.42).
            turn = abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
            tip, notch, half = 1.0, 0.47, math.pi / 5
            along = tip * notch * math.sin(half)
            edge = along / (tip * np.sin(turn) + notch * np.sin(half - turn))
            return radius < edge
        case _:
            raise ValueError(f"unknown shape {shape!r}")


def _in_gripper(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in the fingers, `open` or `closed`, in a block's units."""
    if shape == "open":
        return (abs(y) < 0.66) & (abs(x) < 0.90) & (abs(x) > 0.56)
    return (abs(y) < 0.74) & (abs(x) < 0.20)
