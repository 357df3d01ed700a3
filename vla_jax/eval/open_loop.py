"""Held-out demonstrations, one decision at a time: how far is the policy from the expert?"""

from collections.abc import Sequence

import numpy as np

from vla_jax.core.batch import Example
from vla_jax.policy.policy import Policy


def action_error(policy: Policy, examples: Sequence[Example]) -> dict[str, float]:
    """Decodes the actions of each example and compares it with the demonstration.

    Args:
      policy: decides.
      examples: held-out examples of the policy's robot.

    Returns:
      Of each action dimension, over the steps within the episode:
      `error/NAME`: mean absolute error, in its robot unit;
      `token_accuracy/NAME`: share of decoded tokens that equal the demonstration's, 0..1;
      `nll/NAME`: mean negative log-likelihood of the demonstration's token in nats, given the true
      ones before it, over the full vocabulary.
      `token_accuracy` and `nll` are the means over all action tokens.
    """
    observations = [policy.observer.read(example) for example in examples]
    values, tokens = policy.act_batch(observations, [example.prefix for example in examples])
    truth = np.stack([e.action for e in examples if e.action is not None])
    mask = np.stack([e.action_mask for e in examples if e.action_mask is not None])
    wanted = policy.action_tokens.encode(truth)
    nll, _ = policy.score_batch(observations, examples)
    per_dimension = {
        "error": np.abs(values - truth),
        "token_accuracy": tokens.reshape(wanted.shape) == wanted,
        "nll": nll[:, : np.prod(wanted.shape[1:])].reshape(wanted.shape),
    }
    names = policy.action_tokens.spec.names
    found = {
        f"{measure}/{name}": float(mean)
        for measure, every in per_dimension.items()
        for name, mean in zip(names, every[mask].mean(axis=0), strict=True)
    }
    return found | {
        measure: float(per_dimension[measure][mask].mean()) for measure in ("token_accuracy", "nll")
    }
