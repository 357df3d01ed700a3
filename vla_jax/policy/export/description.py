"""policy.json: everything beside parameters and vocabulary that acting depends on."""

import dataclasses
from typing import Any

from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.policy import Policy
from vla_jax.tokens import prompts
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast_tokens import FastTokens

FORMAT_VERSION = 6  # exported_policy.py reads this one

_OURS = ("torch", "jax")  # formats whose tensors have our names

# The gate. Logits are compared in units of their standard deviation.
PARITY = {
    "float32": {
        "wrong_prompts": 0,
        "wrong_inputs": 0,
        "wrong_tokens": 0,
        "logits_max": 1e-5,
        "actions_max": 1e-6,
    },
    "rounded": {"logits_rms": 0.02},
}


def describe(policy: Policy, config: VLMConfig, form: str, dtype: str) -> dict[str, Any]:
    """Returns the description as JSON values.

    Args:
      policy: what is exported.
      config: sizes of its model.
      form: the format of the folder.
      dtype: of the weights in it.
    """
    encoder, observer, tokens = policy.encoder, policy.observer, policy.action_tokens
    low, high = tokens.bounds
    wording = encoder.prompts.robot
    statistics = encoder.states.get(policy.robot)
    return {
        "format_version": FORMAT_VERSION,
        "format": form,
        "dtype": dtype,
        "robot": policy.robot,
        "action_spec": tokens.spec.to_json(),
        "statistics": tokens.statistics.to_json(),
        "action_token_ids": list(tokens.ids),
        "bins": _bins(tokens),  # null: actions are written by FAST, see fast/
        "plan": _plan(encoder),  # the tokens around a plan that stands before the action
        "bounds": {"low": low.tolist(), "high": high.tolist()},  # what -1 and 1 stand for
        "chunk": encoder.chunk,
        "prompt": {
            "name": wording,
            "template": prompts.ROBOT[wording],
            "lower": wording in prompts.LOWER,
            "image_tokens": encoder.image_tokens,  # inside the text; 0: they stand before it
        },
        # What an instruction may not use, such as tokens of actions, and how it is written instead.
        "spelled": {str(token): ids for token, ids in encoder.tokenizer.spelled().items()},
        "special_tokens": dataclasses.asdict(encoder.tokenizer.special),
        "tokenizer_size": encoder.tokenizer.size,  # ids; the model may have rows beyond them
        "sequence": config_lib.to_json(encoder.layout),
        "views": list(observer.views),
        "history": observer.history,
        "image": {
            "size": observer.image_size,
            "channels": "RGB uint8",
            "centre": observer.centre,  # share of the area that is looked at
            "resize": observer.resize,  # to a square; `_resize` in exported_policy.py says how
        },
        "state": {
            "size": observer.state,
            "statistics": None if statistics is None else statistics.to_json(),
        },
        "model": config_lib.to_json(config) | {"vocabulary": encoder.vocabulary},
        "parameters": _shapes(policy) if form in _OURS else None,
        "parity": PARITY,
    }


def _shapes(policy: Policy) -> dict[str, list[int]]:
    return {name: list(leaf.shape) for name, leaf in trees.named_leaves(policy.params).items()}


def _bins(tokens: ActionTokens | FastTokens) -> dict[str, Any] | None:
    if isinstance(tokens, FastTokens):
        return None
    centres = [row.tolist() for row in tokens.cut.centres()]  # of every dimension
    return {"convention": tokens.cut.convention, "centres": centres}


def _plan(encoder: Encoder) -> dict[str, list[int]] | None:
    if encoder.plan_frame is None:
        return None
    return dict(zip(("opening", "marker"), encoder.plan_frame, strict=True))
