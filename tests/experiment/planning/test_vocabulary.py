import dataclasses

import pytest

from vla_jax.core.errors import UserError
from vla_jax.experiment.planning import vocabulary
from vla_jax.models import variants
from vla_jax.tokens.tokenizer import Tokenizer, TokenizerConfig


def with_tokenizer(config, **settings):
    return dataclasses.replace(config, tokenizer=TokenizerConfig(**settings))


def test_a_tokenizer_that_is_here_is_asked(config, tmp_path):
    tokenizer = Tokenizer.train(["pick up the cube"], 200, 300)
    tokenizer.save(tmp_path / "tokenizer.json")
    path = str(tmp_path / "tokenizer.json")
    assert vocabulary.find(with_tokenizer(config, path=path)) == (tokenizer.size, path)


def test_one_that_a_run_trains_has_so_many_at_most(config):
    assert vocabulary.find(with_tokenizer(config, size=500, locations=300))[0] == 801


def test_added_action_tokens_count(config):
    action_tokens = dataclasses.replace(config.action_tokens, scheme="extend")
    config = dataclasses.replace(with_tokenizer(config, size=500), action_tokens=action_tokens)
    assert vocabulary.find(config)[0] == 500 + 1 + 256 + 256


@pytest.mark.parametrize(
    ("name", "size"),
    [("paligemma_3b_448", 257_152), ("openvla_7b", 32_064), ("smol_500m", 49_280)],
)
def test_one_that_is_not_here_has_its_published_size(config, name, size):
    config = dataclasses.replace(
        with_tokenizer(config, path="nowhere/tokenizer.json"), model=variants.variants()[name]
    )
    assert vocabulary.find(config) == (size, "as published, nowhere/tokenizer.json is not here")


def test_otherwise_the_number_has_to_be_given(config):
    with pytest.raises(UserError, match="--vocabulary=N"):
        vocabulary.find(with_tokenizer(config, path="nowhere/tokenizer.json"))
