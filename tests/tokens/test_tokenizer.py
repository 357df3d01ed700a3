import json
import string

import pytest
import tokenizers
from tokenizers import models

from vla_jax.core.errors import UserError
from vla_jax.tokens.tokenizer import Special, Tokenizer

PAD, EOS, BOS, UNK = 0, 1, 2, 3  # of a trained tokenizer


def test_special_tokens_stand_where_gemma_has_them(tokenizer):
    assert (PAD, EOS, BOS, UNK) == (0, 1, 2, 3)
    for token, index in (("<pad>", PAD), ("<eos>", EOS), ("<bos>", BOS), ("<unk>", UNK)):
        assert tokenizer.id(token) == index


def test_newline_is_a_token_of_its_own(tokenizer):
    assert tokenizer.special.separator > UNK
    assert tokenizer.encode("\n") == [tokenizer.special.separator]
    assert tokenizer.encode("red cube\n") == [
        *tokenizer.encode("red cube"),
        tokenizer.special.separator,
    ]


def test_every_location_is_one_token(tokenizer):
    ids = [tokenizer.encode(f"<loc{i:04d}>", places=True) for i in range(32)]
    assert all(len(row) == 1 for row in ids)
    assert len({row[0] for row in ids}) == 32
    assert tokenizer.id("<loc0032>") is None
    assert UNK not in tokenizer.encode("<loc0032>")


def test_a_place_is_two_tokens_and_comes_back_as_written(tokenizer):
    ids = tokenizer.encode("<loc0003><loc0012>", places=True)
    assert ids == [tokenizer.id("<loc0003>"), tokenizer.id("<loc0012>")]
    assert tokenizer.decode([*ids, EOS]).replace(" ", "") == "<loc0003><loc0012>"


def test_every_training_word_is_one_token(tokenizer, texts):
    words = {word for text in texts for word in text.split() if not word.startswith("<")}
    assert {word: len(tokenizer.encode(word)) for word in words} == dict.fromkeys(words, 1)


def test_training_text_comes_back(tokenizer, texts):
    for text in texts[:4]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([BOS, *tokenizer.encode("red cube"), EOS, PAD]) == "red cube"


@pytest.mark.parametrize("character", string.ascii_letters + string.digits + string.punctuation)
def test_any_ascii_character_is_encodable(tokenizer, character):
    ids = tokenizer.encode(f"x{character}y")
    assert UNK not in ids
    assert tokenizer.decode(ids) == f"x{character}y".lower()


def test_a_character_outside_ascii_is_unknown_and_not_lost_silently(tokenizer):
    assert UNK in tokenizer.encode("\u00e9")


def test_saving_and_loading_changes_nothing(tokenizer, texts, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.size, loaded.special) == (tokenizer.size, tokenizer.special)
    for text in (*texts, "An unseen Word, 42!\n<loc0031>"):
        assert loaded.encode(text) == tokenizer.encode(text)


def test_training_does_not_depend_on_order_or_repetition(texts, tmp_path):
    for name, some in (("one", texts), ("other", [*reversed(texts), texts[0]])):
        Tokenizer.train(some, 512, 4).save(tmp_path / name)
    assert json.loads((tmp_path / "one").read_text()) == json.loads(
        (tmp_path / "other").read_text()
    )


def test_the_vocabulary_stays_within_the_given_size(texts):
    small = Tokenizer.train(texts, 110, 8)
    large = Tokenizer.train(texts, 512, 8)
    assert small.size == 110 + 1 + 8  # and the newline
    assert large.size > small.size
    assert len(small.encode("cube")) > 1
    assert UNK not in small.encode("pick up the red cube")


def test_extending_appends_single_tokens_and_keeps_the_original(tokenizer):
    before = tokenizer.size
    longer = tokenizer.extended(["<act0000>", "<act0001>"])
    assert [longer.id(f"<act000{k}>") for k in (0, 1)] == [before, before + 1]
    assert longer.id("<act0001>") == before + 1
    assert before + 1 not in longer.encode("<act0001>")
    assert longer.encode("red cube") == tokenizer.encode("red cube")
    assert tokenizer.size == before


def test_a_llama_tokenizer_is_known_by_its_special_tokens(tmp_path):
    names = ["<unk>", "<s>", "</s>", "\u2581", "\u2581red"]
    inner = tokenizers.Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>")
    )
    inner.add_special_tokens(["<PAD>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.special == Special(pad=5, eos=2, bos=1, unk=0, separator=3)
    assert (loaded.base_size, loaded.size) == (5, 6)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: expected a tokenizer\.json, found no such"):
        Tokenizer.load(tmp_path / "gone.json")


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"config\.json: not a tokenizer\.json"):
        Tokenizer.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}, r"Gemma.*found all but '\\n'"),
        ({"<pad>": 0, "<eos>": 1, "<unk>": 3, "\n": 4}, "Gemma.*found all but '<bos>'"),
        ({"<PAD>": 0, "</s>": 1, "<unk>": 3, "\u2581": 4}, "Llama.*found all but '<s>'"),
    ],
)
def test_missing_special_tokens_are_refused(tmp_path, vocabulary, message):
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path / "tokenizer.json")


SPELLED = ("<eos>", "<bos>", "<pad>", "<unk>", "<loc0001>", "<act0002>", "<EOS>")


@pytest.mark.parametrize("spelled", SPELLED)
def test_text_that_spells_a_control_token_is_characters(tokenizer, spelled):
    longer = tokenizer.extended([f"<act000{k}>" for k in range(4)])
    controls = {longer.id(name) for name in SPELLED if longer.id(name) is not None}
    for text in (spelled, f"pick {spelled}up", f"{spelled}{spelled}"):
        ids = longer.encode(text)
        assert not controls & set(ids)
        assert longer.decode(ids).replace(" ", "") == text.lower().replace(" ", "")


def test_training_on_control_tokens_leads_to_none_of_them():
    tokenizer = Tokenizer.train(["pick <eos> up"] * 5 + ["<bos> <unk>"], 300, 4)
    assert not set(tokenizer.encode("<eos> <bos> <unk>")) & {0, 1, 2, 3}


def test_what_a_processor_left_in_the_file_is_off(tokenizer, tmp_path, texts):
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.enable_truncation(3)
    inner.enable_padding(pad_id=0, pad_token="<pad>", length=12)
    inner.model.dropout = 0.5
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    for _ in range(3):
        assert loaded.encode_all(texts) == tokenizer.encode_all(texts)
    loaded.save(tmp_path / "again.json")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "again.json")).truncation is None


def test_barred_tokens_are_written_by_shorter_ones(tokenizer):
    (cube,) = tokenizer.encode("cube")
    barred = tokenizer.barring([cube])
    ids = barred.encode("red cube")
    assert cube not in ids
    assert ids[: len(tokenizer.encode("red"))] == tokenizer.encode("red")
    assert barred.decode(ids) == "red cube"
    assert barred.encode("move the star") == tokenizer.encode("move the star")


def test_half_of_a_surrogate_pair_is_no_text(tokenizer):
    with pytest.raises(UserError, match="half of a surrogate pair"):
        tokenizer.encode("pick \ud800")
