"""What an exported policy must reproduce: observations, and what JAX makes of them.

The form of the file is that of `policy/selftest.py`, which reads it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vla_jax.core.arrays import Array, Int
from vla_jax.policy.decode import Rules, greedy
from vla_jax.policy.observation import Observation, stack
from vla_jax.policy.policy import Policy

PROMPTS = 64  # an export is compared on at least so many
_BATCH = 8
_OTHER_IDS = 256  # ids whose logits are kept beside the legal ones
_RAW = 4


def make(
    policy: Policy, observations: Sequence[Observation], instructions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the golden arrays by name.

    Args:
      policy: computes in float32, from the parameters as they are exported.
      observations: what it looks at.
      instructions: one for each.
    """
    rows, lengths = zip(
        *(policy.encoder.prefix(text, robot=True) for text in instructions), strict=True
    )
    inputs = {
        "tokens": np.stack(rows),
        "prefix_length": np.array(lengths, np.int32),
        **stack(observations),
    }
    ids = _logit_ids(policy)
    tokens, logits = _decode(policy, inputs, ids)
    return {
        **{name: value for name, value in inputs.items() if name != "tokens"},
        "prefix": inputs["tokens"],
        "instructions": np.array(instructions),
        "tokens": tokens,
        "values": policy.values(tokens),
        "logit_ids": ids,
        "logits": logits,
        **_raw(policy),
    }


def _decode(
    policy: Policy, inputs: dict[str, np.ndarray], ids: Int[np.ndarray, " i"]
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes in batches of one size; returns tokens and logits [b, t, i] of `ids`."""
    rules = Rules.of(policy.legal)

    @jax.jit
    def decode(params: Any, inputs: dict[str, Array]) -> tuple[Array, Array]:
        model = nnx.merge(policy.graph, params)
        return greedy(model, rules, lambda logits: logits[:, ids], **inputs)

    count = len(inputs["tokens"])
    parts = []
    for start in range(0, count, _BATCH):
        index = np.minimum(np.arange(start, start + _BATCH), count - 1)
        part = {name: value[index] for name, value in inputs.items()}
        parts.append(jax.device_get(decode(policy.params, part)))
    tokens, logits = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return tokens, logits


def _logit_ids(policy: Policy) -> Int[np.ndarray, " i"]:
    """Returns the ids whose logits are kept: all legal ones, and some others."""
    vocabulary = policy.encoder.vocabulary
    # Runtimes may forbid the end of a text before it is due, and show it as impossible.
    special = list(policy.encoder.tokenizer.special.ids)
    others = np.setdiff1d(np.arange(vocabulary), [*policy.action_tokens.ids, *special])
    count = min(_OTHER_IDS, len(others))
    chosen = np.random.default_rng(0).choice(others, count, replace=False)
    return np.union1d(chosen, policy.action_tokens.ids).astype(np.int64)


def _raw(policy: Policy) -> dict[str, np.ndarray]:
    """Returns observations as cameras and joints give them, and what they become."""
    observer, rng = policy.observer, np.random.default_rng(0)
    statistics = policy.encoder.states.get(policy.robot)
    size, out = observer.image_size, {"raw/count": np.array(_RAW)}
    for n in range(_RAW):
        steps = 1 + n % observer.history
        shape = (size * (n + 1) + 3 * n, size * (n + 1) + n, 3)
        images = {
            view: list(rng.integers(0, 256, (steps, *shape), np.uint8)) for view in observer.views
        }
        state = None
        if observer.state and statistics is not None:
            state = rng.uniform(statistics.low, statistics.high).astype(np.float32)
            out[f"raw/{n}/state"] = state
        for view, pictures in images.items():
            out |= {f"raw/{n}/{view}/{step}": image for step, image in enumerate(pictures)}
        seen = dataclasses.asdict(observer.look(images, state))
        out |= {
            f"raw/{n}/becomes/{name}": value for name, value in seen.items() if value is not None
        }
    return out
