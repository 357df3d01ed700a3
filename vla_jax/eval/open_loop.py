"""Held-out demonstrations, one decision at a time: how far is the policy from the expert?"""

from collections.abc import Sequence

import numpy as np

from vla_jax.core.arrays import Bool, Int
from vla_jax.core.batch import Example
from vla_jax.policy.policy import Policy
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder


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
      ones before it, over the full vocabulary;
      `illegal/NAME`: how often, without the grammar, the likeliest token is none that may stand
      there, 0..1; of FAST, none of its tokens.
      `token_accuracy`, `nll` and `illegal` are the means over all action tokens; tokens of FAST are
      of no one dimension, and have these alone.
    """
    observations = [policy.observer.read(example) for example in examples]
    values, tokens = policy.act_batch(observations, [example.prefix for example in examples])
    truth = np.stack([e.action for e in examples if e.action is not None])
    mask = np.stack([e.action_mask for e in examples if e.action_mask is not None])
    names = policy.action_tokens.spec.names
    error = np.abs(values - truth)[mask].mean(axis=0)
    found = {f"error/{name}": float(e) for name, e in zip(names, error, strict=True)}
    nll, likeliest = policy.score_batch(observations, examples)
    number, same = _compare(policy.encoder, tokens, examples)
    illegal = ~_legal(policy, number, likeliest)
    for measure, every in {"token_accuracy": same, "nll": nll, "illegal": illegal}.items():
        found[measure] = float(every[number >= 0].mean())
        if isinstance(policy.action_tokens, ActionTokens):  # each is of one dimension
            for d, name in enumerate(names):
                chosen = (number >= 0) & (number % len(names) == d)
                found[f"{measure}/{name}"] = float(every[chosen].mean())
    return found


def _legal(
    policy: Policy, number: Int[np.ndarray, "b n"], tokens: Int[np.ndarray, "b n"]
) -> Bool[np.ndarray, "b n"]:
    """Returns which tokens may stand where the action token of this number does."""
    actions = policy.action_tokens
    if not isinstance(actions, ActionTokens):
        return np.isin(tokens, actions.ids)
    return actions.legal(policy.encoder.vocabulary)[number % actions.spec.size, tokens]


def _compare(
    encoder: Encoder, tokens: Int[np.ndarray, "b t"], examples: Sequence[Example]
) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
    """Compares decoded tokens with the suffixes that the examples have.

    Returns:
      For every suffix slot: the number of its action token in the action, -1 where there is none
      or it does not count; and whether the decoded one of this number is the same.
    """
    rows, _, supervised = encoder.encode_all(examples)
    suffix, counts = (part[:, encoder.layout.prefix :] for part in (rows, supervised))
    counts = counts & np.isin(suffix, encoder.action_token_ids)
    number = np.cumsum(np.isin(suffix, encoder.action_token_ids), axis=1) - 1
    decoded = np.full(suffix.shape, -1)
    for row, written in zip(decoded, tokens, strict=True):
        string = encoder.split(written)[1][: len(row)]
        row[: len(string)] = string
    same = np.take_along_axis(decoded, np.maximum(number, 0), axis=1) == suffix
    return np.where(counts, number, -1), same
