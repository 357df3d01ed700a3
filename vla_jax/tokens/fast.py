"""FAST: chunks of actions <-> few tokens, by a cosine transform and byte-pair encoding.

A chunk in [-1, 1] is transformed along time, dimension by dimension, scaled and rounded; the
integers are read out lowest frequency first, all dimensions of it in turn, as characters, and the
text is compressed by byte-pair encoding. Motion is smooth, so most of them are 0.

Source: Pertsch et al. 2025, FAST: Efficient Action Tokenization for Vision-Language-Action Models.
The files are those of the published tokenizer (huggingface.co/physical-intelligence/fast), whose
own code decodes what is written here, and the other way round.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypedDict

import msgspec
import numpy as np
import scipy.fft
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from vla_jax.core import json_file, paths
from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, PathText, Positive, Range

Rows = Literal["loc", "last", "least_used", "openvla"]
_CODES = 0x800  # characters that UTF-8 writes in one or two bytes
_LONGEST = 10_000  # characters of a token, as published: no limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastConfig(Checked):
    """How chunks of actions become tokens under `scheme=fast`.

    Attributes:
      path: a folder of the published layout to load; None trains one on the run's own chunks.
      size: the largest vocabulary that training may reach.
      scale: of the coefficients before they are rounded; larger is finer, and longer.
      rows: where its tokens live in the vocabulary: `new` rows, or existing ones that are
        overwritten, chosen as by `action_tokens.rows`.

    Raises:
      UserError: a number is not positive.
    """

    path: PathText | None = None
    size: Annotated[int, Range(1, 2**22)] = 1024
    scale: Positive = 10.0
    rows: Literal[Rows, "new"] = "new"


_WANTED = "A FAST tokenizer is a folder with processor_config.json and tokenizer.json"


class _Processor(TypedDict):
    """What is read of processor_config.json."""

    scale: Annotated[float, msgspec.Meta(gt=0)]
    min_token: int


class Fast:
    """The transform and its vocabulary; the same for robots of any number of dimensions.

    Args:
      inner: byte-level byte-pair encoding.
      scale: of the coefficients.
      lowest: the integer of character 0.

    Attributes:
      scale: as given.
      lowest: as given.
      pieces: the bytes that each token stands for.
    """

    def __init__(self, inner: tokenizers.Tokenizer, scale: float, lowest: int):
        self._inner, self.scale, self.lowest = inner, scale, lowest
        self.pieces = [_bytes(inner.id_to_token(i) or "") for i in range(inner.get_vocab_size())]
        known = {b for char, b in _BYTES.items() if inner.token_to_id(char) is not None}
        self._nearest = _nearest(known)

    @classmethod
    def train(cls, chunks: Iterable[Float[np.ndarray, "b n a"]], config: FastConfig) -> "Fast":
        """Trains a vocabulary in which every chunk of these lengths can be written.

        Args:
          chunks: in [-1, 1], robot by robot; order does not matter.
          config: size and scale.

        Raises:
          UserError: the size has no room for all integers.
        """
        chunks = list(chunks)
        length = max(chunk.shape[1] for chunk in chunks)
        # An orthonormal transform keeps the norm, which n numbers up to 1 bound by sqrt(n).
        highest = math.ceil(config.scale * math.sqrt(length))
        if 2 * highest >= _CODES:
            raise UserError(
                "config.action_tokens.fast.scale",
                expected=f"at most {_CODES / 2 / math.sqrt(length):.0f} for chunks of {length}",
                found=config.scale,
            )
        alphabet = sorted({b for code in range(2 * highest + 1) for b in chr(code).encode()})
        if config.size < len(alphabet):
            raise UserError(
                "config.action_tokens.fast.size",
                expected=f"at least {len(alphabet)} for chunks of {length}",
                found=config.size,
            )
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
        of_byte = {b: char for char, b in _BYTES.items()}
        trainer = trainers.BpeTrainer(
            vocab_size=config.size,
            min_frequency=2,
            initial_alphabet=[of_byte[b] for b in alphabet],
            max_token_length=_LONGEST,
            show_progress=False,
        )
        texts = [
            "".join(map(chr, row))
            for chunk in chunks
            for row in (_coefficients(chunk, config.scale) + highest).tolist()
        ]
        inner.train_from_iterator(sorted(texts), trainer)
        return cls(inner, config.scale, -highest)

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> "Fast":
        """Reads a folder of the published layout.

        Raises:
          UserError: a file is missing or says something else than numbers.
        """
        folder = pathlib.Path(paths.expand(folder))
        try:
            values = json_file.read(folder / "processor_config.json", _Processor, fix=_WANTED)
            json_file.check_finite(values, f"{folder / 'processor_config.json'}")
            inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            return cls(inner, values["scale"], values["min_token"])
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception on malformed files
            raise UserError(
                f"FAST tokenizer {folder}: {type(error).__name__} {error}",
                expected="a folder with processor_config.json and tokenizer.json",
            ) from error

    def save(self, folder: str | pathlib.Path, shape: tuple[int, int] | None = None) -> None:
        """Writes the published layout; `load` inverts it.

        With `processing_action_tokenizer.py` of the published tokenizer beside it,
        `transformers.AutoProcessor` loads the folder, too; its version 5 has to be told
        `time_horizon` and `action_dim` when it decodes.

        Args:
          folder: made if missing.
          shape: steps and dimensions of a chunk, where there is one robot.
        """
        folder = pathlib.Path(paths.expand(folder))
        folder.mkdir(parents=True, exist_ok=True)
        steps, size = shape or (None, None)
        name = "UniversalActionProcessor"
        config = {
            "action_dim": size,
            "auto_map": {"AutoProcessor": f"processing_action_tokenizer.{name}"},
            "min_token": self.lowest,
            "processor_class": name,
            "scale": self.scale,
            "time_horizon": steps,
            "vocab_size": len(self.pieces),
        }
        plain = {
            "clean_up_tokenization_spaces": False,
            "processor_class": name,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        for file, values in (("processor_config", config), ("tokenizer_config", plain)):
            (folder / f"{file}.json").write_text(json.dumps(values, indent=2) + "\n")
        self._inner.save(str(folder / "tokenizer.json"))

    def encode(self, chunks: Float[np.ndarray, "b n a"]) -> list[list[int]]:
        """Returns the tokens of each chunk in [-1, 1]."""
        codes = np.clip(_coefficients(chunks, self.scale) - self.lowest, 0, _CODES - 1)
        texts = ["".join(map(chr, row)) for row in self._nearest[codes].tolist()]
        return [found.ids for found in self._inner.encode_batch(texts, add_special_tokens=False)]

    def decode(self, tokens: Iterable[int], size: int) -> Float[np.ndarray, "n a"]:
        """Returns the chunk of `size` dimensions that tokens stand for, about in [-1, 1].

        Raises:
          UserError: they are no whole number of steps.
        """
        text = self._inner.decode(list(map(int, tokens)), skip_special_tokens=False)
        codes = np.array([ord(char) for char in text], np.float64)
        if len(codes) % size or "\ufffd" in text:
            raise UserError(
                "FAST tokens", expected=f"a multiple of {size} coefficients", found=len(codes)
            )
        rows = (codes.reshape(-1, size) + self.lowest) / self.scale
        return np.asarray(scipy.fft.idct(rows, axis=0, norm="ortho"), np.float32)

    def behaviours(self) -> Int[np.ndarray, "v 3"]:
        """Returns what each token does to a text of whole characters.

        A character of two bytes may begin in one token and end in the next.

        Returns:
          int32 [v, 3]: whether it ends a character that was begun before (0 or 1), how many
          characters it ends, and whether it leaves one begun; -1 for a token that fits nowhere.
        """
        return np.array([_behaviour(piece) for piece in self.pieces], np.int32)


def _coefficients(chunks: Float[np.ndarray, "b n a"], scale: float) -> Int[np.ndarray, "b c"]:
    rows = np.asarray(scipy.fft.dct(chunks.astype(np.float64), axis=1, norm="ortho"))
    return np.around(rows * scale).astype(np.int64).reshape(len(chunks), -1)


def _behaviour(piece: bytes) -> tuple[int, int, int]:
    ends = int(piece[:1] != b"" and 0x80 <= piece[0] < 0xC0)
    begun = int(piece[-1:] != b"" and 0xC2 <= piece[-1] < 0xE0)
    whole = piece[ends : len(piece) - begun]
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        return (-1, -1, -1)
    if not piece or any(ord(char) >= _CODES for char in text):
        return (-1, -1, -1)
    return ends, ends + len(text), begun


def _nearest(known: set[int]) -> Int[np.ndarray, " codes"]:
    """Returns the character nearest to each that can be written with the known bytes."""
    codes = np.array([c for c in range(_CODES) if set(chr(c).encode()) <= known])
    if not len(codes):
        raise UserError("FAST tokenizer", expected="tokens of single bytes", found="none")
    return codes[np.abs(np.arange(_CODES)[:, None] - codes).argmin(axis=1)]


def _bytes_of_characters() -> Mapping[str, int]:
    """Byte-level encoding writes a byte as a character: itself, or from 256 on if unprintable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _bytes_of_characters()


def _bytes(token: str) -> bytes:
    """Returns what the byte-level decoder makes of a token."""
    if all(char in _BYTES for char in token):
        return bytes(_BYTES[char] for char in token)
    return token.encode()
