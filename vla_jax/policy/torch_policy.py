"""An exported policy in PyTorch: the folder that this file lies in is all a robot needs.

    python torch_policy.py --image camera.png --instruction "pick up the red cube"
    python torch_policy.py --selftest

Nothing here needs JAX or the package that trained the policy. A folder of format `torch` needs no
transformers either.
"""

import os
import pathlib
from typing import Any

import exported_tensors
import selftest
import torch
from exported_policy import ExportedPolicy, read
from safetensors.torch import load_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_UNUSED = ("/unused/", "/pool/")  # parameters that a folder carries for others


class TorchPolicy(ExportedPolicy):
    """Images and an instruction in, an action in robot units out; made by `load`."""

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        device: str = "cpu",
        dtype: str = "float32",
        *,
        unchecked: bool = False,
        verify: bool = True,
    ) -> "TorchPolicy":
        """Reads an exported folder.

        Args:
          folder: of format `torch`, `hf_paligemma` or `openvla`.
          device: where to compute, as PyTorch names it.
          dtype: of the computation: float32, bfloat16 or float16.
          unchecked: whether a folder marked incomplete will do.
          verify: whether all files are compared with the manifest.

        Raises:
          ValueError: the folder is no such policy, is not as it was written, makes no sense, or the
            dtype is unknown.
        """
        folder = pathlib.Path(folder).expanduser()
        description = read(folder, unchecked=unchecked, verify=verify)
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype}")
        kind = description["format"]
        if kind == "torch":
            from torch_model import VLM  # noqa: PLC0415  (only this format has it)

            model: Any = VLM(
                description["model"], _parameters(folder, description, device), DTYPES[dtype]
            )
        elif kind in ("hf_paligemma", "openvla"):
            import torch_hf  # noqa: PLC0415

            model = torch_hf.MODELS[kind](folder, description, device, DTYPES[dtype])
        else:
            raise ValueError(f"{folder} is of format {kind}, which PyTorch does not run")
        return cls(folder, description, model)


def _parameters(
    folder: pathlib.Path, description: dict[str, Any], device: str
) -> dict[str, torch.Tensor]:
    """Reads the parameters that count by name; raises what `exported_tensors.read` does."""
    tensors = exported_tensors.read(
        folder,
        description["parameters"],
        lambda file: load_file(file, device=device),
        lambda value: bool(value.isfinite().all()),
    )
    return {
        name: value for name, value in tensors.items() if not any(part in name for part in _UNUSED)
    }


if __name__ == "__main__":
    selftest.main(TorchPolicy.load, pathlib.Path(__file__).resolve().parent)
