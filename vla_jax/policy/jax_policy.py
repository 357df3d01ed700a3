"""An exported policy in JAX alone: the folder that this file lies in is all a robot needs.

    python jax_policy.py --image camera.png --instruction "pick up the red cube"
    python jax_policy.py --selftest

The model is StableHLO, compiled by whatever JAX finds: a CPU, a GPU or a TPU. Nothing here needs
the package that trained the policy.
"""

import dataclasses
import os
import pathlib
from typing import Any

import exported_tensors
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import selftest
from exported_policy import ExportedPolicy, Inputs, read
from exported_tokens import Grammar
from safetensors.flax import load_file


class Program:
    """The compiled decoder.

    Args:
      folder: of format `jax`.
      description: its policy.json.
      device: `cpu`, `gpu` or `tpu`.
      dtype: of the computation, one that the folder has a program for.
    """

    def __init__(self, folder: pathlib.Path, description: dict[str, Any], device: str, dtype: str):
        file = folder / f"decode.{dtype}.stablehlo"
        if not file.is_file():
            raise ValueError(f"dtype {dtype}: {folder} has no program for it ({file.name})")
        self._device = jax.local_devices(backend=device)[0]
        self._params: dict[str, Any] = {}
        wanted = description["parameters"]
        tensors = exported_tensors.read(
            folder, wanted, load_file, lambda v: bool(jnp.isfinite(v).all())
        )
        for name, value in tensors.items():
            *parents, last = name.split("/")
            node = self._params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = jax.device_put(value, self._device)
        self._call = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)
        self._room = description["sequence"]["prefix"]
        self._pad = description["special_tokens"]["pad"]

    def decode(
        self, inputs: Inputs, grammar: Grammar, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes greedily: see `exported_policy.Model`."""
        tables = {name: getattr(grammar, name) for name in ("classes", "step", "need", "start")}
        rules = {name: np.asarray(table, np.int32) for name, table in tables.items()}
        row = np.full(self._room, self._pad, np.int32)
        row[self._room - len(inputs.prefix) :] = inputs.prefix
        named = {k: v for k, v in dataclasses.asdict(inputs).items() if v is not None}
        named |= {"tokens": row, "prefix_length": np.int32(len(inputs.prefix))}
        del named["prefix"]
        batch = {name: jnp.asarray(value)[None] for name, value in named.items()}
        with jax.default_device(self._device):
            tokens, logits = self._call(self._params, rules, batch)
        chosen = np.asarray(logits[0, np.arange(len(tokens[0])), tokens[0]])
        if not np.isfinite(chosen).all():
            raise ValueError("the model's logits are not finite")
        return np.asarray(tokens[0]), np.asarray(logits[0][:, wanted])


class JaxPolicy(ExportedPolicy):
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
    ) -> "JaxPolicy":
        """Reads an exported folder of format `jax`.

        Args:
          folder: what an export wrote.
          device: `cpu`, `gpu` or `tpu`.
          dtype: of the computation: float32, or that of the weights.
          unchecked: whether a folder marked incomplete will do.
          verify: whether all files are compared with the manifest.

        Raises:
          ValueError: the folder is no such policy, is not as it was written, makes no sense, or has
            no program for the dtype.
        """
        folder = pathlib.Path(folder).expanduser()
        description = read(folder, unchecked=unchecked, verify=verify)
        if description["format"] != "jax":
            raise ValueError(f"{folder} is of format {description['format']}: see torch_policy.py")
        return cls(folder, description, Program(folder, description, device, dtype))


if __name__ == "__main__":
    selftest.main(JaxPolicy.load, pathlib.Path(__file__).resolve().parent)
