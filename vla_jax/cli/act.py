"""`vla-jax act WORKDIR --image=FILE --instruction="..."`: one decision, printed."""

import io
import os
import pathlib
import re
import warnings
from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags
from PIL import Image, ImageFile

from vla_jax.cli import flags
from vla_jax.core.arrays import Float, UInt8
from vla_jax.core.errors import UserError
from vla_jax.core.paths import expand
from vla_jax.data import images as images_lib
from vla_jax.runtime import compilation, progress

_ALIKE = ("BMP", "TIFF", "WEBP")  # other formats whose header tells how deep a pixel is


def main(arguments: Sequence[str]) -> None:
    """Prints the plan, every action dimension in its robot unit, raw tokens and stage times."""
    values, (path,) = flags.parse("act", arguments, _define, ("WORKDIR",))
    for flag in ("image", "instruction"):
        if getattr(values, flag) is None:
            raise UserError("vla-jax act", expected=f"--{flag}=...", found="none")
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import load
    from vla_jax.experiment.workdir import Workdir

    pairs = [item.partition("=") if "=" in item else ("", "", item) for item in values.image]
    pictures = [(view, read_image(file)) for view, _, file in pairs]
    state = None if values.state is None else _numbers(values.state)
    compilation.use_cache()
    run = load.open_run(Workdir(path))
    policy = run.policy(values.robot)
    seen: dict[str, list[np.ndarray]] = {}
    for view, picture in pictures:
        seen.setdefault(view or policy.observer.views[0], []).append(picture)
    first = policy.act(seen, values.instruction, state)
    again = policy.act(seen, values.instruction, state)  # the first call compiles
    spec = policy.action_tokens.spec
    width = max(map(len, spec.names))
    if first.plan:
        progress.note(f"plan: {first.plan}")
    for number, step in enumerate(first.values):
        if len(first.values) > 1:
            progress.note(f"step {number}")
        for name, value, unit in zip(spec.names, step, spec.units, strict=True):
            progress.note(f"{name:<{width}}  {value:+.5f}  {unit}")
    progress.note(f"tokens: {' '.join(map(str, first.tokens))}")
    for title, action in (("first call, compiling", first), ("second call", again)):
        times = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in action.milliseconds.items())
        progress.note(f"{title}: {times}")
    progress.note(f"policy of step {run.step}")


def read_image(file: str | os.PathLike[str]) -> UInt8[np.ndarray, "y x 3"]:
    """Reads an image file that is RGB with 8 bits per channel, and converts nothing silently.

    Raises:
      UserError: there is no such file, it is no image, a damaged one, one of another mode, or of
        more pixels than are decoded.
    """
    path = pathlib.Path(expand(file))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"image {path}", expected="an image file", found=error.strerror) from error
    images_lib.size(data, str(path))  # refuses one of too many pixels before there is memory for it
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as picture:
            warnings.simplefilter("ignore")  # Pillow warns before it raises
            _check_mode(picture, path)
            if picture.format in _ALIKE:
                return np.array(picture)  # decoded here
            if picture.format not in ("JPEG", "PNG"):
                raise ValueError(f"the format {picture.format} is not read")
            picture.verify()  # a PNG's checksums, which OpenCV does not look at; decodes nothing
    except UserError:
        raise
    except Exception as error:  # every format has exceptions of its own
        raise UserError(
            f"image {path}",
            expected="a PNG or JPEG file",
            found=f"a damaged or another one ({error})",
        ) from error
    return images_lib.decode(data, str(path))


def _check_mode(picture: ImageFile.ImageFile, path: pathlib.Path) -> None:
    """Refuses, by its header, what is not RGB with 8 bits per channel."""
    mode = picture.mode
    # Pillow's own mode of 16 bits is RGB, too; what it will read the file's pixels as is not.
    if deeper := re.search(r"RGB;(16|32)", str(picture.tile)):
        mode = f"{mode} with {deeper[1]} bits per channel"
    if mode != "RGB":
        raise UserError(
            f"image {path}",
            expected="mode RGB, 8 bits per channel",
            found=f"mode {mode}",
            fix="Convert it first, e.g. PIL.Image.open(FILE).convert('RGB').save(FILE)",
        )


def _numbers(items: Sequence[str]) -> Float[np.ndarray, " s"]:
    try:
        return np.array([float(item) for item in items], np.float32)
    except ValueError as error:
        raise UserError(
            "vla-jax act --state", expected="numbers between commas", found=",".join(items)
        ) from error


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_multi_string(
        "image",
        None,
        "RGB image file; VIEW=FILE for a robot with several cameras. Several of one view are its "
        "last steps, oldest first, for a model that looks back.",
        flag_values=values,
    )
    absl_flags.DEFINE_string(
        "robot", None, "Robot dataset whose robot it is, if there are several.", flag_values=values
    )
    absl_flags.DEFINE_list(
        "state", None, "Proprioception, in robot units: 0.1,-0.2,...", flag_values=values
    )
    absl_flags.DEFINE_string("instruction", None, "What to do, in words.", flag_values=values)
