"""FAST: what comes back, what is refused, and the published code's formulas."""

import json

import numpy as np
import pytest
import scipy.fft
import tokenizers
from tokenizers import trainers

from vla_jax.core.errors import UserError
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens

STEPS, SIZE = 8, 3
rng = np.random.default_rng(0)


def smooth(count, steps=STEPS, size=SIZE):
    """Chunks in [-1, 1] that wander."""
    walk = np.cumsum(rng.normal(0, 0.03, (count, steps, size)), axis=1)
    return np.clip(walk + rng.uniform(-0.8, 0.8, (count, 1, size)), -1, 1).astype(np.float32)


CHUNKS = smooth(600)


@pytest.fixture(scope="module")
def fast():
    return Fast.train([CHUNKS], FastConfig(size=400))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as the published code trains it: split by a pattern, codes of two bytes."""
    folder = tmp_path_factory.mktemp("published")
    coefficients = np.around(scipy.fft.dct(CHUNKS, axis=1, norm="ortho") * 60).astype(int)
    lowest, highest = int(coefficients.min()), int(coefficients.max())
    assert highest - lowest > 128
    bpe = tokenizers.ByteLevelBPETokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=[chr(i) for i in range(highest - lowest + 1)],
        max_token_length=10000,
    )
    texts = ["".join(map(chr, chunk.ravel() - lowest)) for chunk in coefficients]
    bpe._tokenizer.train_from_iterator(texts, trainer=trainer)
    bpe.save(str(folder / "tokenizer.json"))
    values = {"scale": 60, "min_token": lowest, "vocab_size": 1024, "action_dim": SIZE}
    (folder / "processor_config.json").write_text(json.dumps(values))
    return folder


def check_bound(codec, chunks):
    """No coefficient is off by more than half, so no chunk by more than that many times it."""
    for chunk, tokens in zip(chunks, codec.encode(chunks), strict=True):
        back = codec.decode(tokens, chunk.shape[1])
        assert back.shape == chunk.shape
        assert back.dtype == np.float32
        error = np.linalg.norm(back - chunk, axis=0)
        assert (error <= 0.5 / codec.scale * np.sqrt(len(chunk)) + 1e-5).all()


@pytest.mark.parametrize("steps", [1, 2, 5, STEPS])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_chunks_come_back_within_the_bound_of_rounding(steps, scale):
    trained = Fast.train([CHUNKS], FastConfig(size=800, scale=scale))
    extreme = np.sign(rng.normal(size=(50, steps, SIZE))).astype(np.float32)
    wild = rng.uniform(-1, 1, (50, steps, SIZE)).astype(np.float32)
    for chunks in (smooth(50, steps), wild, extreme, np.ones((1, steps, SIZE), np.float32)):
        check_bound(trained, chunks)


def test_smooth_motion_takes_few_tokens(fast):
    lengths = list(map(len, fast.encode(smooth(200))))
    assert np.mean(lengths) < 0.75 * STEPS * SIZE
    assert len(fast.encode(np.zeros((1, STEPS, SIZE), np.float32))[0]) < 4


def test_the_same_vocabulary_writes_robots_of_other_sizes(fast):
    check_bound(fast, smooth(20, STEPS, 7))


def test_coefficients_are_read_lowest_frequency_first(fast):
    chunk = np.zeros((1, STEPS, SIZE), np.float32)
    chunk[0, :, 1] = 0.5  # a constant: the first coefficient of the second dimension alone
    text = b"".join(fast.pieces[token] for token in fast.encode(chunk)[0]).decode()
    found = np.array(list(map(ord, text))) + fast.lowest
    wanted = np.zeros(STEPS * SIZE)
    wanted[1] = np.around(0.5 * np.sqrt(STEPS) * 10)
    np.testing.assert_array_equal(found, wanted)


def test_a_folder_comes_back(fast, tmp_path):
    fast.save(tmp_path / "fast", (STEPS, SIZE))
    again = Fast.load(tmp_path / "fast")
    assert again.encode(CHUNKS[:50]) == fast.encode(CHUNKS[:50])
    values = json.loads((tmp_path / "fast" / "processor_config.json").read_text())
    assert values["scale"] == 10
    assert (values["time_horizon"], values["action_dim"]) == (STEPS, SIZE)
    assert values["vocab_size"] == len(fast.pieces)
    assert values["min_token"] == fast.lowest


def assert_is_the_published_formula(codec, folder):
    """Chunks are written and read as the published code does, with the folder's own files."""
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    values = json.loads((folder / "processor_config.json").read_text())
    scale, lowest = values["scale"], values["min_token"]
    for chunk, tokens in zip(CHUNKS[:100], codec.encode(CHUNKS[:100]), strict=True):
        rows = np.around(scipy.fft.dct(chunk, axis=0, norm="ortho") * scale).astype(int)
        text = "".join(map(chr, np.maximum(rows.ravel() - lowest, 0)))
        assert inner.encode(text).ids == tokens
        codes = np.array(list(map(ord, inner.decode(tokens)))).reshape(-1, SIZE)
        wanted = scipy.fft.idct((codes + lowest) / scale, axis=0, norm="ortho")
        np.testing.assert_allclose(codec.decode(tokens, SIZE), wanted, atol=1e-6)


def test_what_was_trained_here_is_read_by_the_published_formula(fast, tmp_path):
    fast.save(tmp_path, (STEPS, SIZE))
    assert_is_the_published_formula(fast, tmp_path)


def test_the_published_layout_decodes_by_the_published_formula(published):
    codec = Fast.load(published)
    assert_is_the_published_formula(codec, published)
    # Its tokens may begin or end inside a character.
    behaviours = codec.behaviours()
    assert {(0, 0, 1), (1, 1, 0)} <= set(map(tuple, behaviours.tolist()))


def test_behaviours_are_what_the_decoder_does(published):
    codec = Fast.load(published)
    for piece, (ends, count, begins) in zip(codec.pieces, codec.behaviours(), strict=True):
        if ends < 0:
            continue
        whole = b"\xc3" * ends + piece + b"\x80" * begins
        assert len(whole.decode()) == count + begins


def test_whatever_is_written_by_the_grammar_of_a_published_folder_is_whole(
    published, spec, statistics
):
    codec = Fast.load(published)
    tokens = FastTokens(spec, statistics, tuple(range(5, 5 + len(codec.pieces))), codec)
    found = tokens.automaton(5 + len(codec.pieces), 6, 60)
    halves = 0
    for seed in range(40):
        draw, state, said = np.random.default_rng(seed), found.start, []
        for left in range(60, 0, -1):
            after = found.step[state][found.classes]
            choices = np.flatnonzero((after >= 0) & (found.need[np.maximum(after, 0)] < left))
            said.append(int(draw.choice(choices)))
            state = int(after[said[-1]])
            halves += state % 2
            if not state:
                break
        assert tokens.read(np.array(said)).shape == (6, 4)
    assert halves > 10


def test_values_come_back_in_robot_units(spec, statistics, actions, fast):
    tokens = FastTokens(spec, statistics, tuple(range(100, 100 + len(fast.pieces))), fast)
    chunks = actions.reshape(-1, 8, 4)[:40]
    inside = np.clip(chunks, statistics.q01, statistics.q99)
    for chunk, text in zip(inside, tokens.write(chunks), strict=True):
        assert text.dtype == np.int32
        assert text.min() >= 100
        back = tokens.read(text)
        width = np.array(statistics.q99)[1] - np.array(statistics.q01)[1]
        assert np.abs(back - chunk)[:, 1].max() <= 0.05 * np.sqrt(8) * width / 2 + 1e-6
        np.testing.assert_array_equal(back[:, 0], chunk[:, 0])  # terminate is rounded
        np.testing.assert_allclose(back[:, 2], 0.1, atol=1e-6)  # never moves


def test_what_is_no_text_of_fast_is_refused(spec, statistics, fast, tmp_path):
    tokens = FastTokens(spec, statistics, tuple(range(100, 100 + len(fast.pieces))), fast)
    with pytest.raises(UserError, match=r"FAST tokens: expected ids of them, found \[99"):
        tokens.read(np.array([99, 100]))
    one = fast.encode(np.zeros((1, 1, 3), np.float32))[0]
    with pytest.raises(UserError, match="multiple of 4 coefficients, found 3"):
        tokens.read(np.array(one) + 100)
    with pytest.raises(UserError, match=r"config\.json: No such file.*is a folder with"):
        Fast.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, r"fast\.size: expected at least 59 for chunks of 8, found 20"),
        ({"scale": 1000.0}, r"fast\.scale: expected at most 362 for chunks of 8, found 1000"),
    ],
)
def test_a_vocabulary_without_room_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Fast.train([CHUNKS], FastConfig(**options))


@pytest.mark.parametrize("field", ["size", "scale"])
def test_numbers_are_positive(field):
    with pytest.raises(UserError, match=rf"FastConfig\.{field}: expected"):
        FastConfig(**{field: 0})
