"""What a run's policy needs beside its parameters, in files: tokenizer.json, fast/, policy.json."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from vla_jax.actions.bins import MAX_COUNT, MIN_COUNT, Bins, Convention
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core import files, json_file
from vla_jax.core.errors import UserError
from vla_jax.policy import exported_checks, exported_manifest
from vla_jax.runtime import progress
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

_ANOTHER = "If another version of vla_jax wrote this run, use that one, or train anew"
POLICY = "policy.json"  # written last: where it is, the others are
_TOKENIZER, _FAST = "tokenizer.json", "fast"


class _Cut(TypedDict):
    counts: list[Annotated[int, Meta(ge=MIN_COUNT, le=MAX_COUNT)]]
    convention: Convention
    centres: list[list[float]] | None


class _Robot(TypedDict):
    action_spec: dict[str, Any]
    statistics: dict[str, Any]
    state_statistics: dict[str, Any] | None
    bins: NotRequired[_Cut | None]  # null: FAST; versions that knew bins of equal width: absent


class _Policy(TypedDict):
    robots: dict[str, _Robot]
    action_token_ids: list[int]
    prompts: PromptsConfig
    sequence: SequenceConfig
    chunk: Annotated[int, Meta(ge=1)]
    image_tokens: Annotated[int, Meta(ge=0)]
    vocabulary: Annotated[int, Meta(ge=1)]
    bins_convention: NotRequired[Convention]


def save(folder: pathlib.Path, encoder: Encoder) -> None:
    """Writes tokenizer.json, fast/ where actions are written so, the manifest and policy.json."""
    encoder.tokenizer.save(folder / _TOKENIZER)
    names = [_TOKENIZER]
    for tokens in encoder.actions.values():
        if isinstance(tokens, FastTokens):
            tokens.fast.save(folder / _FAST, (encoder.chunk, tokens.spec.size))
            names += [f"{_FAST}/{path.name}" for path in sorted((folder / _FAST).iterdir())]
    text = f"{json.dumps(_describe(encoder), indent=2)}\n".encode()
    # It is complete when policy.json appears.
    known = exported_manifest.digests(folder, list(dict.fromkeys(names)))
    exported_manifest.write(folder, known | {POLICY: hashlib.sha256(text).hexdigest()})
    files.write_whole(folder / POLICY, text)


def load(folder: pathlib.Path) -> Encoder:
    """Reads what `save` wrote, and compares it with the manifest; older runs have none.

    Raises:
      UserError: a file is damaged or not as it was written, makes no sense, or is of another
        version of vla_jax.
    """
    path = folder / POLICY
    try:
        if (folder / exported_manifest.FILE).exists():
            exported_manifest.verify(folder, (POLICY, _TOKENIZER))
        else:
            progress.note(
                f"{folder}: an older run without {exported_manifest.FILE}: damage to {POLICY} and "
                f"{_TOKENIZER} may go unnoticed"
            )
        policy = json_file.read(path, _Policy, fix=_ANOTHER)
        _check(policy, str(path))
        return _encoder(folder, policy)
    except ValueError as error:  # of the functions that exports carry
        raise UserError(str(error)) from error


def _check(policy: _Policy, where: str) -> None:
    """Makes sure that the description makes sense.

    Raises:
      ValueError: it does not; names the field.
    """
    ids = policy["action_token_ids"]
    exported_checks.check_ids(ids, policy["vocabulary"], where)
    for name, robot in policy["robots"].items():
        place = f"{where}, robot {name}"
        exported_checks.check_space(robot["action_spec"], robot["statistics"], place)
        if robot["state_statistics"] is not None:
            state = f"{place}, field state_statistics"
            exported_checks.check_statistics(robot["state_statistics"], None, state)
        if (cut := robot.get("bins")) is not None:
            size, bins = len(robot["action_spec"]["names"]), Bins.from_json(dict(cut))
            place = f"{place}, field bins"
            rows = [row.tolist() for row in bins.centres()]
            exported_checks.check_centres(rows, size, cut["convention"], place)
            exported_checks.check_count(ids, max(cut["counts"]), where)


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


def _encoder(folder: pathlib.Path, policy: _Policy) -> Encoder:
    tokenizer = Tokenizer.load(folder / _TOKENIZER)
    if tokenizer.size > policy["vocabulary"]:
        raise UserError(
            f"{folder / _TOKENIZER}",
            expected=f"at most {policy['vocabulary']} ids, as {POLICY} says",
            found=tokenizer.size,
        )
    return Encoder(
        tokenizer,
        {name: _actions(folder, robot, policy) for name, robot in policy["robots"].items()},
        policy["prompts"],
        policy["sequence"],
        chunk=policy["chunk"],
        states={
            name: Statistics.from_json(statistics)
            for name, robot in policy["robots"].items()
            if (statistics := robot["state_statistics"]) is not None
        },
        image_tokens=policy["image_tokens"],
        rows=policy["vocabulary"],
    )


def _actions(folder: pathlib.Path, robot: _Robot, policy: _Policy) -> ActionTokens | FastTokens:
    ids = tuple(policy["action_token_ids"])
    spec = ActionSpec.from_json(robot["action_spec"])
    statistics = Statistics.from_json(robot["statistics"])
    if "bins" not in robot:  # versions that knew bins of equal width alone
        cut = Bins((len(ids),) * spec.size, policy.get("bins_convention", "uniform"))
    elif robot["bins"] is None:
        fast = Fast.load(folder / _FAST)
        exported_checks.check_count(ids, len(fast.pieces), str(folder / POLICY))
        return FastTokens(spec, statistics, ids, fast)
    else:
        cut = Bins.from_json(dict(robot["bins"]))
    return ActionTokens(spec, statistics, ids, cut)
