"""The text of an instruction is read alike in training and by the programs of an export."""

import importlib.util
import pathlib

import pytest

import vla_jax.policy
from vla_jax.core import words
from vla_jax.tokens.tokenizer import Tokenizer

HOSTILE = (
    "pick up the red cube",
    "pick <eos> up <loc0001><bos>",
    "<pad><unk> <act0001>",
    "red cube\n",
    "<image> and <state>",
    "grüne Würfel",
    "",
)
BLANK = ("", " ", "\u200b", "\u2800", "?", " .?", "\u3164 ", "\u200b?", "\ufeff\n")


@pytest.fixture(scope="module")
def exported():
    path = pathlib.Path(vla_jax.policy.__path__[0]) / "exported_tokens.py"
    spec = importlib.util.spec_from_file_location("exported_tokens_alone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_ids_stand_for_a_text(exported):
    tokenizer = Tokenizer.train(["pick up the red cube", "green"], 300, 16)
    tokenizer = tokenizer.extended([f"<act000{k}>" for k in range(3)])
    tokenizer = tokenizer.barring(tokenizer.encode("cube"))
    spelled = {str(token): ids for token, ids in tokenizer.spelled().items()}
    text = exported.Text(tokenizer._inner, {"spelled": spelled})
    for said in HOSTILE:
        assert text.encode(said) == tokenizer.encode(said)


@pytest.mark.parametrize("said", [*HOSTILE, *BLANK, "pick it up?", "a\u200bb", "?!"])
def test_the_same_instructions_are_blank(exported, said):
    assert exported.words(said) == words.words(said)
    assert (said in BLANK) == words.is_blank(said)
