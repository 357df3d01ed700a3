"""LIBERO's HDF5 files, as the features of the `libero_*_no_noops` sets that OpenVLA published.

Sources: Lifelong-Robot-Learning/LIBERO, scripts/create_dataset.py (the files);
moojink/rlds_dataset_builder, LIBERO_Spatial (feature names, the turn of the images).
"""

import re
from pathlib import Path

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.core.words import is_blank
from vla_jax.data.ingest import hdf5
from vla_jax.data.ingest.episode import Episode
from vla_jax.data.ingest.options import ORIENTATION_NOTES, Options, Orientation

_IMAGES = {
    "observation/image": "obs/agentview_rgb",
    "observation/wrist_image": "obs/eye_in_hand_rgb",
}
_STATE = ("obs/ee_pos", "obs/ee_ori", "obs/gripper_states")
_POSE = "obs/ee_states"  # the first two of these side by side
_DOCS = {
    "action": "end-effector delta, 3 of position and 3 of axis-angle, -1..1 of the controller's "
    "range; gripper -1 open, 1 closed",
    "observation/state": "end-effector position (m) and axis-angle (rad), two fingers (m)",
    "observation/joint_state": "7 joint angles (rad)",
}


class Libero(hdf5.Demonstrations):
    """A `Reader` of LIBERO's files."""

    docs = _DOCS

    def __init__(self, source: Path, options: Options):
        """Lists the demonstrations.

        Args:
          source: a file, or a folder of files.
          options: how to read.

        Raises:
          UserError: h5py is missing, there are no demonstrations, a file is damaged.
        """
        super().__init__(source, options, "--format=libero_hdf5")
        with self.first() as demo:
            self._convention = demo.text("macros_image_convention")
        self._orientation: Orientation = options.orientation_or(
            "as_stored" if self._convention == "opencv" else "rotated"
        )
        self._fixed = options.orientation != "auto"
        self.notes = (
            f"Images are {ORIENTATION_NOTES[self._orientation]}. LIBERO's simulator stores them "
            "upside down, and the published RLDS sets turn them by 180 degrees: a policy has to "
            "see the simulator's images turned the same way.",
            *self.counts,
        )

    def episode(self, i: int) -> Episode:
        """Reads demonstration `i`; see `Reader`."""
        with self.open(i) as demo:
            convention = demo.text("macros_image_convention")
            if not self._fixed and convention != self._convention:
                raise UserError(
                    f"{demo.place}: macros_image_convention",
                    expected=f"{self._convention}, as in the first file",
                    found=convention,
                    fix="Ingest the two kinds as two datasets, or say --orientation",
                )
            action = demo.read("actions")
            return Episode(
                place=demo.place,
                file_path=str(demo.path),
                images={name: demo.encode(key, self._orientation) for name, key in _IMAGES.items()},
                arrays={
                    "action": action,
                    "observation/state": self._state(demo),
                    "observation/joint_state": demo.read("obs/joint_states"),
                    **demo.reward(),
                },
                instructions=[self._instruction(demo)] * len(action),
                terminal=demo.terminal(),
            )

    def _state(self, demo: hdf5.Demonstration) -> np.ndarray:
        """Reads the state; LIBERO's files hold most of it twice, and have no checksums."""
        state = demo.join(_STATE)
        if demo.has(_POSE):
            pose, again = demo.read(_POSE), demo.join(_STATE[:2])
            if pose.shape != again.shape or not np.array_equal(pose, again, equal_nan=True):
                raise UserError(
                    f"{demo.place}: {_POSE} and {', '.join(_STATE[:2])} differ",
                    expected="the same numbers twice",
                    fix="Fetch the file again",
                )
        return state

    def _instruction(self, demo: hdf5.Demonstration) -> str:
        """Returns what the file says, else the option, else the words of the file's name."""
        said = demo.attribute("problem_info").get("language_instruction", "")
        if not isinstance(said, str | list):
            raise UserError(
                f"{demo.place}: attribute problem_info, field language_instruction",
                expected="text, or a list of words",
                found=type(said).__name__,
            )
        text = " ".join(map(str, said)) if isinstance(said, list) else said
        name = demo.path.stem.removesuffix("_demo")
        words = re.sub(r"^.*SCENE\d+_", "", name).replace("_", " ")
        text = text.strip(' "')
        return text if not is_blank(text) else self._options.instruction or words
