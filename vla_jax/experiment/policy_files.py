"""What a run's policy needs beside its parameters, in files: tokenizer.json, fast/, policy.json."""

import dataclasses
import json
import pathlib
from typing import Any

from vla_jax.actions.bins import Bins
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core import files, json_file
from vla_jax.core.errors import UserError
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

POLICY = "policy.json"  # written last: where it is, the others are
_TOKENIZER, _FAST = "tokenizer.json", "fast"


def save(folder: pathlib.Path, encoder: Encoder) -> None:
    """Writes tokenizer.json, fast/ where actions are written so, and policy.json."""
    encoder.tokenizer.save(folder / _TOKENIZER)
    for tokens in encoder.actions.values():
        if isinstance(tokens, FastTokens):
            tokens.fast.save(folder / _FAST, (encoder.chunk, tokens.spec.size))
    files.write_whole(folder / POLICY, f"{json.dumps(_describe(encoder), indent=2)}\n".encode())


def load(folder: pathlib.Path) -> Encoder:
    """Reads what `save` wrote.

    Raises:
      UserError: the files are damaged, or of another version of vla_jax.
    """
    path = folder / POLICY
    try:
        return _encoder(folder, json_file.read(path, dict[str, Any]))
    except KeyError as error:
        raise UserError(
            f"{path}",
            expected=f"the field {error}",
            found="none; another version of vla_jax wrote this run",
            fix="Use that version, or train anew in another --workdir",
        ) from error


def _describe(encoder: Encoder) -> dict[str, Any]:
    return {
        "robots": {
            name: {
                "action_spec": tokens.spec.to_json(),
                "statistics": tokens.statistics.to_json(),
                "bins": tokens.cut.to_json() if isinstance(tokens, ActionTokens) else None,
                "state_statistics": encoder.states[name].to_json()
                if name in encoder.states
                else None,
            }
            for name, tokens in encoder.actions.items()
        },
        "action_token_ids": list(encoder.action_token_ids),
        "prompts": dataclasses.asdict(encoder.prompts),
        "sequence": dataclasses.asdict(encoder.layout),
        "chunk": encoder.chunk,
        "image_tokens": encoder.image_tokens,
        "vocabulary": encoder.vocabulary,
    }


def _encoder(folder: pathlib.Path, policy: dict[str, Any]) -> Encoder:
    ids = tuple(policy["action_token_ids"])
    return Encoder(
        Tokenizer.load(folder / _TOKENIZER),
        {name: _actions(folder, robot, policy, ids) for name, robot in policy["robots"].items()},
        PromptsConfig(**policy["prompts"]),
        SequenceConfig(**policy["sequence"]),
        chunk=policy["chunk"],
        states={
            name: Statistics.from_json(robot["state_statistics"])
            for name, robot in policy["robots"].items()
            if robot["state_statistics"] is not None
        },
        image_tokens=policy["image_tokens"],
        rows=policy["vocabulary"],
    )


def _actions(
    folder: pathlib.Path, robot: dict[str, Any], policy: dict[str, Any], ids: tuple[int, ...]
) -> ActionTokens | FastTokens:
    spec = ActionSpec.from_json(robot["action_spec"])
    statistics = Statistics.from_json(robot["statistics"])
    if "bins" not in robot:  # versions that knew bins of equal width alone
        cut = Bins((len(ids),) * spec.size, policy["bins_convention"])
    elif robot["bins"] is None:
        return FastTokens(spec, statistics, ids, Fast.load(folder / _FAST))
    else:
        cut = Bins.from_json(robot["bins"])
    return ActionTokens(spec, statistics, ids, cut)
