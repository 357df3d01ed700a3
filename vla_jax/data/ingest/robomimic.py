"""robomimic's HDF5 files: every observation under its own name.

Source: ARISE-Initiative/robomimic, docs/datasets/overview.md; the low-dimensional observations of
its default configurations; RoboCasa keeps the instruction in the attribute `ep_meta`.
"""

from pathlib import Path

from vla_jax.core.errors import UserError, listed
from vla_jax.core.words import is_blank
from vla_jax.data.ingest import hdf5
from vla_jax.data.ingest.episode import Episode
from vla_jax.data.ingest.options import ORIENTATION_NOTES, Options, Orientation

_STATE = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


class Robomimic(hdf5.Demonstrations):
    """A `Reader` of robomimic's files.

    `observation/state` joins the arm's pose and gripper, where the file has them.
    """

    docs = {  # noqa: RUF012
        "action": "as the environment takes it, -1..1",
        "action_absolute": "the same as absolute poses",
        "observation/state": f"{_STATE[0]} (m), {_STATE[1]} (x y z w), {_STATE[2]}",
    }

    def __init__(self, source: Path, options: Options):
        """Lists the demonstrations.

        Args:
          source: a file, or a folder of files.
          options: how to read.

        Raises:
          UserError: h5py is missing, there are no demonstrations, a file is damaged.
        """
        super().__init__(source, options, "--format=robomimic_hdf5")
        self._orientation: Orientation = options.orientation_or("as_stored")
        with self.first() as demo:
            left_out = demo.groups("obs") + [
                name
                for name, dataset in demo.members("obs").items()
                if not (hdf5.is_image(dataset) or hdf5.is_vector(dataset))
            ]
        self.notes = [f"Images are {ORIENTATION_NOTES[self._orientation]}."]
        if left_out:
            self.notes.append(f"Left out, neither RGB nor a vector: {listed(left_out)}.")
        self.notes += self.counts

    def episode(self, i: int) -> Episode:
        """Reads demonstration `i`; see `Reader`."""
        with self.open(i) as demo:
            members = demo.members("obs")
            arrays = {"action": demo.read("actions"), **demo.reward()}
            arrays |= {
                f"observation/{name}": demo.read(f"obs/{name}")
                for name, dataset in members.items()
                if hdf5.is_vector(dataset)
            }
            if demo.has("actions_abs"):
                arrays["action_absolute"] = demo.read("actions_abs")
            if "state" not in members and all(name in members for name in _STATE):
                arrays["observation/state"] = demo.join([f"obs/{name}" for name in _STATE])
            return Episode(
                place=demo.place,
                file_path=str(demo.path),
                images={
                    f"observation/{name}": demo.encode(f"obs/{name}", self._orientation)
                    for name, dataset in members.items()
                    if hdf5.is_image(dataset)
                },
                arrays=arrays,
                instructions=[self._instruction(demo)] * len(arrays["action"]),
                terminal=demo.terminal(),
            )

    def _instruction(self, demo: hdf5.Demonstration) -> str:
        said = demo.attribute("ep_meta").get("lang")
        if not isinstance(said, str | None):
            raise UserError(
                f"{demo.place}: attribute ep_meta, field lang",
                expected="text",
                found=type(said).__name__,
            )
        return self._options.instruction if said is None or is_blank(said) else said
