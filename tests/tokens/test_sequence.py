import numpy as np
import pytest

from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN
from vla_jax.core.errors import UserError
from vla_jax.tokens.sequence import SequenceConfig, prefix_tokens, suffix_tokens

PAD, EOS, BOS = 0, 1, 2  # of a trained tokenizer


def test_the_prefix_stands_at_the_right_end(tokenizer):
    row, length = prefix_tokens("red cube", tokenizer, SequenceConfig(prefix=8, suffix=4))
    assert row.dtype == np.int32
    assert length == 4
    expected = [PAD] * 4 + [BOS, *tokenizer.encode("red cube"), tokenizer.special.separator]
    assert row.tolist() == expected


def test_a_prefix_that_just_fits_has_no_padding(tokenizer):
    row, length = prefix_tokens("red cube", tokenizer, SequenceConfig(prefix=4, suffix=4))
    assert length == 4
    assert PAD not in row


def test_a_longer_prefix_is_refused_with_the_field(tokenizer):
    with pytest.raises(
        UserError,
        match=r"'pick up the red cube' is too long: expected at most 6 tokens "
        r"\(config\.sequence\.prefix\), found 7 tokens",
    ):
        prefix_tokens("pick up the red cube", tokenizer, SequenceConfig(prefix=6, suffix=4))


def test_the_suffix_starts_at_the_left_and_ends_with_eos(tokenizer):
    ids = np.array([[7, 8, 9], [4, 5, 6]])
    rows, mask = suffix_tokens(ids, tokenizer, SequenceConfig(prefix=4, suffix=6), "answer")
    assert rows.dtype == np.int32
    assert rows.tolist() == [[7, 8, 9, EOS, PAD, PAD], [4, 5, 6, EOS, PAD, PAD]]
    assert mask.tolist() == [[True, True, True, True, False, False]] * 2


def test_a_suffix_that_just_fits_is_supervised_throughout(tokenizer):
    ids = np.array([[7, 8, 9]])
    rows, mask = suffix_tokens(ids, tokenizer, SequenceConfig(prefix=4, suffix=4), "answer")
    assert rows.tolist() == [[7, 8, 9, EOS]]
    assert mask.all()


def test_a_longer_suffix_is_refused_with_its_name(tokenizer):
    with pytest.raises(
        UserError,
        match=r"answer of web 3 is too long: expected at most 4 tokens with <eos> "
        r"\(config\.sequence\.suffix\), found 5",
    ):
        suffix_tokens(
            np.array([[7, 8, 9, 10]]),
            tokenizer,
            SequenceConfig(prefix=4, suffix=4),
            "answer of web 3",
        )


@pytest.mark.parametrize("sizes", [{"prefix": 2}, {"suffix": 1}])
def test_a_layout_without_room_is_refused(sizes):
    with pytest.raises(UserError, match=r"SequenceConfig\.\w+: expected \d\.\."):
        SequenceConfig(**sizes)


def test_images_and_state_stand_where_the_sentence_has_them(tokenizer):
    config = SequenceConfig(prefix=14, suffix=4)
    sentence = ["the ", IMAGE_TOKEN, " cube ", STATE_TOKEN, " left"]
    row, length = prefix_tokens(sentence, tokenizer, config, 5)
    words = [tokenizer.encode(word) for word in ("the", "cube", "left")]
    expected = [BOS, *words[0], *[IMAGE_TOKEN] * 5, *words[1], STATE_TOKEN, *words[2]]
    assert row[14 - length :].tolist() == [*expected, tokenizer.special.separator]
    plain, _ = prefix_tokens("the red cube", tokenizer, config, 5)
    np.testing.assert_array_equal(plain, prefix_tokens("the red cube", tokenizer, config)[0])
    with pytest.raises(UserError, match="at most 14 tokens"):
        prefix_tokens(["the ", IMAGE_TOKEN, " cube"], tokenizer, config, 12)


def test_without_images_inside_a_marker_is_text(tokenizer):
    row, _ = prefix_tokens("<image>", tokenizer, SequenceConfig(prefix=14, suffix=4))
    assert row.min() >= 0
