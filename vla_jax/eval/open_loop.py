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
      `error/NAME`: mean absolute error of each action dimension, in its robot unit, within the
      episode, and
      `token_accuracy`: share of decoded action tokens that equal the demonstration's, 0..1.
    """
    observations = [policy.observer.read(example) for example in examples]
    values, tokens = policy.act_batch(observations, [example.prefix for example in examples])
    truth = np.stack([e.action for e in examples if e.action is not None])
    mask = np.stack([e.action_mask for e in examples if e.action_mask is not None])
    error = np.abs(values - truth)[mask].mean(axis=0)
    names = policy.action_tokens.spec.names
    same = np.concatenate(_same_tokens(policy, tokens, truth, mask))
    return {f"error/{name}": float(e) for name, e in zip(names, error, strict=True)} | {
        "token_accuracy": float(same.mean())
    }


def _same_tokens(
    policy: Policy, tokens: np.ndarray, truth: np.ndarray, mask: np.ndarray
) -> list[np.ndarray]:
    """Returns, for each example, which supervised tokens of its action were decoded."""
    wanted = policy.action_tokens.write(truth)
    supervised = policy.action_tokens.supervised(mask)
    found = []
    for k, row in enumerate(tokens):
        string = policy.encoder.split(row)[1][: len(wanted[k])]
        missing = len(wanted[k]) - len(string)  # a text of variable length may be shorter
        same = np.pad(string, (0, missing), constant_values=-1) == wanted[k]
        found.append(same if supervised is None else same[supervised[k]])
    return found
