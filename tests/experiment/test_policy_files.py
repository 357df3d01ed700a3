"""A run's policy files: what is not as it was written, or makes no sense, is refused by name."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.experiment import policy_files
from vla_jax.policy import exported_manifest
from vla_jax.tokens.action_tokens import ActionTokens, ActionTokensConfig, choose_ids
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer


def encoder(scheme="overwrite"):
    spec, rng = TABLETOP.spec, np.random.default_rng(0)
    chunks = rng.uniform(-1, 1, (50, 3, spec.size)).astype(np.float32)
    statistics = Statistics.of(chunks.reshape(-1, spec.size))
    fast = Fast.train([chunks], FastConfig(size=300)) if scheme == "fast" else None
    count = 32 if fast is None else len(fast.pieces)
    tokenizer = Tokenizer.train(["pick up the red cube"], 300, 64)
    tokenizer, ids = choose_ids(ActionTokensConfig(scheme=scheme), tokenizer, count)
    tokens = (
        ActionTokens(spec, statistics, ids)
        if fast is None
        else FastTokens(spec, statistics, ids, fast)
    )
    return Encoder(
        tokenizer,
        {"tabletop": tokens},
        PromptsConfig(),
        SequenceConfig(),
        states={"tabletop": statistics},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folders = {}
    for scheme in ("overwrite", "fast"):
        folders[scheme] = tmp_path_factory.mktemp(scheme)
        policy_files.save(folders[scheme], encoder(scheme))
    return {
        scheme: {p: p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for scheme, f in folders.items()
    }


@pytest.fixture
def copy(written, tmp_path):
    """Writes the files again; returns their folder."""

    def of(scheme="overwrite"):
        files = written[scheme]
        root = next(path.parent for path in files if path.name == policy_files.POLICY)
        for path, data in files.items():
            place = tmp_path / path.relative_to(root)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
        return tmp_path

    return of


@pytest.mark.parametrize("scheme", ["overwrite", "fast"])
def test_a_flipped_bit_anywhere_is_noticed(copy, scheme):
    folder, rng = copy(scheme), np.random.default_rng(3)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files * 4:
        data = bytearray(file.read_bytes())
        place = int(rng.integers(len(data)))
        data[place] ^= 1 << int(rng.integers(8))
        before = file.read_bytes()
        file.write_bytes(data)
        try:
            policy_files.load(folder)
            assert file.name == exported_manifest.FILE  # its white space
        except UserError as error:
            noticed = str(error)
            assert str(folder) in noticed
        file.write_bytes(before)


def test_two_words_swapped_are_noticed_and_may_be_accepted(copy):
    folder = copy()
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    names = values["model"]["vocab"]
    a, b = names["a"], names["b"]
    names["a"], names["b"] = b, a
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"tokenizer\.json: not as it was written") as refused:
        policy_files.load(folder)
    command = shlex.split(str(refused.value).partition("accept the change: ")[2].rstrip("."))
    assert command[0] == "python"
    done = subprocess.run(
        [sys.executable, *command[1:]], check=True, capture_output=True, text=True
    )
    assert done.stdout == "accepted 2 files: policy.json, tokenizer.json\n"
    policy_files.load(folder)


def test_an_older_run_without_a_manifest_is_opened_with_a_note(copy, capsys):
    folder = copy()
    (folder / exported_manifest.FILE).unlink()
    policy_files.load(folder)
    assert "an older run without manifest.json" in "".join(capsys.readouterr())


def put(name, change):
    def spoil(values):
        *parents, last = name.split(".")
        for parent in parents:
            values = values[parent]
        values[last] = change(values[last]) if callable(change) else change

    return spoil


def swap(values):
    rows = values["robots"]["tabletop"]["statistics"]
    rows["q01"], rows["q99"] = rows["q99"], rows["q01"]


ROBOT = "robots.tabletop"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swap, "robot tabletop, field statistics, dimension 0: expected q01 <= q99"),
        (put(f"{ROBOT}.statistics.q01", [float("nan")] * 8), r"q01\[0\]: expected a finite number"),
        (put(f"{ROBOT}.statistics.q99", 1.0), "statistics.q99|q99: expected a list"),
        (put(f"{ROBOT}.state_statistics.std", [-1.0] * 8), r"state_statistics\.std\[0\]: expected"),
        (put(f"{ROBOT}.action_spec.units", ["m"]), "action_spec.units: expected 8 entries"),
        (put(f"{ROBOT}.action_spec.low", [9.0] * 8), "dimension 0: expected low <= high"),
        (put(f"{ROBOT}.bins.counts", [32] * 7), "field bins: expected 8 entries, .* found 7"),
        (put(f"{ROBOT}.bins.counts", [1] * 8), r"counts\[0\]: expected int >= 2"),
        (
            put("action_token_ids", lambda ids: [-1, *ids[1:]]),
            r"action_token_ids\[0\]: expected an id",
        ),
        (put("action_token_ids", lambda ids: [ids[0]] * 32), "expected different ids"),
        (
            put("action_token_ids", lambda ids: ids[1:]),
            "expected 32 ids, as many as bins, found 31",
        ),
        (put("action_token_ids", lambda ids: [10**6, *ids[1:]]), "expected an id below"),
        (put("chunk", 0), "field chunk: expected int >= 1"),
        (put("vocabulary", 10), "expected an id below 10|expected at most 10 ids"),
        (put("vocabulary", "10"), "field vocabulary: expected int, got str"),
        (put("prompts.robot", "no such"), "field prompts.robot: "),
        (put("sequence.prefix", None), "field sequence.prefix: expected int"),
        (put("robots", []), "field robots: expected object, got array"),
    ],
)
def test_what_makes_no_sense_is_refused_though_it_was_accepted(copy, spoil, message):
    folder = copy()
    path = folder / policy_files.POLICY
    values = json.loads(path.read_text())
    spoil(values)
    path.write_text(json.dumps(values))
    exported_manifest.accept(folder)
    with pytest.raises(UserError, match=message) as refused:
        policy_files.load(folder)
    assert "\n" not in str(refused.value)


def test_fast_has_as_many_tokens_as_ids(copy):
    folder = copy("fast")
    path = folder / policy_files.POLICY
    values = json.loads(path.read_text())
    values["action_token_ids"].pop()
    path.write_text(json.dumps(values))
    exported_manifest.accept(folder)
    with pytest.raises(UserError, match="ids, as many as bins, found"):
        policy_files.load(folder)
