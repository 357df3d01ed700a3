"""Held-out demonstrations, one decision at a time: how far is the policy from the expert?"""

from collections.abc import Sequence

import numpy as np

from vla_jax.core.batch import Frame
from vla_jax.policy.policy import Policy


def action_error(policy: Policy, frames: Sequence[Frame]) -> dict[str, float]:
    """Decodes an action per frame and compares it with the demonstration.

    Args:
      policy: decides.
      frames: held-out robot frames of the policy's image size.

    Returns:
      `error/NAME`: mean absolute error of each action dimension, in its robot unit, and
      `token_accuracy`: share of decoded action tokens that equal the demonstration's, 0..1.
    """
    images = np.stack([np.stack(list(frame.images.values())) for frame in frames])
    values, tokens = policy.act_batch(images, [frame.prefix for frame in frames])
    truth = np.stack([frame.action for frame in frames if frame.action is not None])
    action_tokens = policy.encoder.action_tokens
    error = np.abs(values - truth).mean(axis=(0, 1))
    names = action_tokens.spec.names
    wanted = action_tokens.encode(truth).reshape(tokens.shape)
    return {f"error/{name}": float(e) for name, e in zip(names, error, strict=True)} | {
        "token_accuracy": float((tokens == wanted).mean())
    }
