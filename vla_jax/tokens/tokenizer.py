"""Text <-> token ids through one `tokenizer.json` (Hugging Face tokenizers), loaded or trained.

A trained one has its special tokens where Gemma has them: `<pad>` 0, `<eos>` 1, `<bos>` 2, `<unk>`
3, and the newline that ends every prefix and PaliGemma's `<locNNNN>` as tokens of their own.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from vla_jax.core import files
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, PathText, Range

# Names of the special tokens by family: padding, end, begin, unknown, and what ends a prefix:
# PaliGemma's newline, or the lone space that OpenVLA puts before an action.
_FAMILIES = {
    "gemma": ("<pad>", "<eos>", "<bos>", "<unk>", "\n"),
    "llama": ("<PAD>", "</s>", "<s>", "<unk>", "\u2581"),
}
_LOCATION = re.compile(r"<loc\d+>")
_ASCII = [chr(i) for i in range(33, 127)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Checked):
    """Where the tokenizer comes from.

    Attributes:
      path: a `tokenizer.json` to load; None trains one on the text of the training data.
      size: the largest vocabulary that training may reach, newline and `<locNNNN>` not counted.
      locations: how many `<locNNNN>` tokens a trained tokenizer has (PaliGemma has 1024).
    """

    path: PathText | None = None
    size: Annotated[int, Range(1, 2**22)] = 1024
    locations: Annotated[int, Range(0, 10_000)] = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Special:
    """Ids of the special tokens.

    Attributes:
      pad: fills empty slots.
      eos: ends a target.
      bos: begins a prefix.
      unk: stands for what cannot be encoded.
      separator: ends a prefix.
    """

    pad: int
    eos: int
    bos: int
    unk: int
    separator: int

    @property
    def ids(self) -> frozenset[int]:
        """All of them."""
        return frozenset(dataclasses.astuple(self))


class Tokenizer:
    """Encodes and decodes text; ids are the rows of the model's embedding table.

    Attributes:
      special: the ids with a meaning of their own.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        self._inner = inner
        missing: dict[str, list[str]] = {}
        for family, names in _FAMILIES.items():
            ids = [inner.token_to_id(name) for name in names]
            missing[family] = [n for n, i in zip(names, ids, strict=True) if i is None]
            found = [i for i in ids if i is not None]
            if len(found) == len(names):
                pad, eos, bos, unk, separator = found
                self.special = Special(pad=pad, eos=eos, bos=bos, unk=unk, separator=separator)
                return
        family = min(missing, key=lambda name: len(missing[name]))
        raise UserError(
            f"tokenizer: special tokens, taken for one of {family.capitalize()}",
            expected=" ".join(map(repr, _FAMILIES[family])),
            found=f"all but {' '.join(map(repr, missing[family]))}",
        )

    @classmethod
    def train(cls, texts: Iterable[str], size: int, locations: int) -> "Tokenizer":
        """Trains byte-pair encoding on `texts`, lower-cased, until every word is one token.

        Any printable ASCII text stays encodable (character by character at worst).

        Args:
          texts: the text of the training data; order does not matter.
          size: the largest vocabulary, newline and `<locNNNN>` not counted.
          locations: number of `<locNNNN>` tokens appended.
        """
        inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
        inner.normalizer = normalizers.Lowercase()
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=1,
            special_tokens=list(_FAMILIES["gemma"][:4]),
            initial_alphabet=_ASCII,
            show_progress=False,
        )
        # Places are tokens of their own: pieces of their names would be dead rows.
        words = {_LOCATION.sub(" ", text) for text in texts}
        inner.train_from_iterator(sorted(words), trainer)
        names = ["\n", *(f"<loc{i:04d}>" for i in range(locations))]
        inner.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in names])
        return cls(inner)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Tokenizer":
        """Reads a `tokenizer.json`.

        Raises:
          UserError: the file is missing, is no tokenizer, or lacks a special token.
        """
        if not pathlib.Path(path).is_file():
            raise UserError(f"tokenizer {path}", expected="a tokenizer.json", found="no such file")
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception on malformed files
            raise UserError(f"tokenizer {path}: not a tokenizer.json ({error})") from error
        return cls(inner)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes `tokenizer.json`, whole or not at all; `load` inverts it."""
        files.write_whole(path, self._inner.to_str(pretty=True).encode())

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return self._inner.get_vocab_size()

    @property
    def base_size(self) -> int:
        """Number of ids before tokens were added."""
        return self._inner.get_vocab_size(with_added_tokens=False)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, without `<bos>` or `<eos>`."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, as `encode`; faster for many."""
        found = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; special tokens are left out."""
        return self._inner.decode(list(map(int, ids)))

    def id(self, token: str) -> int | None:
        """Returns the id of one token by its exact name, None if there is none."""
        return self._inner.token_to_id(token)

    def token(self, index: int) -> str:
        """Returns the name of one token, `#ID` where there is none."""
        return self._inner.id_to_token(index) or f"#{index}"

    def extended(self, names: Sequence[str]) -> "Tokenizer":
        """Returns a tokenizer with one new token per name, ids following the present ones."""
        inner = tokenizers.Tokenizer.from_str(self._inner.to_str())
        inner.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in names])
        return Tokenizer(inner)
