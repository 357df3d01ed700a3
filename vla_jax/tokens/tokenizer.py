"""Text <-> token ids through one `tokenizer.json` (Hugging Face tokenizers), loaded or trained.

A trained one has its special tokens where Gemma has them: `<pad>` 0, `<eos>` 1, `<bos>` 2, `<unk>`
3, and the newline that ends every prefix and PaliGemma's `<locNNNN>` as tokens of their own.

Text that others wrote never becomes a control token: `<eos>` in an instruction is five characters.
`<locNNNN>` and `<segNNN>` in the texts of a question set are tokens only where its layout says so.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from vla_jax.core import files, paths
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, PathText, Range

# Names of the special tokens by family: padding, end, begin, unknown, and what ends a prefix:
# PaliGemma's newline, or the lone space that OpenVLA puts before an action.
_FAMILIES = {
    "gemma": ("<pad>", "<eos>", "<bos>", "<unk>", "\n"),
    "llama": ("<PAD>", "</s>", "<s>", "<unk>", "\u2581"),
}
_PLACE = re.compile(r"<(loc|seg)\d+>")
# Added tokens that stand for no text: whatever is written like a tag. Others, such as Gemma's runs
# of spaces or the words of a trade, are text.
_CONTROL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
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
        self._readers: dict[bool, tokenizers.Tokenizer] = {}
        self._spelled: dict[bool, dict[int, tuple[int, ...]]] = {}
        self._barred: frozenset[int] = frozenset()
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
        # Places are tokens of their own: pieces of their names would be dead rows. Nor may merges
        # lead to the name of a special token.
        words = {_CONTROL.sub(" ", text) for text in texts}
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
        path = paths.expand(path)
        if not pathlib.Path(path).is_file():
            raise UserError(f"tokenizer {path}", expected="a tokenizer.json", found="no such file")
        try:
            inner = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the library raises bare Exception on malformed files
            raise UserError(f"tokenizer {path}: not a tokenizer.json ({error})") from error
        # What a processor was last called with is saved too: it cuts prompts, fills them with
        # `<pad>`, or draws their ids.
        inner.no_truncation()
        inner.no_padding()
        if getattr(inner.model, "dropout", None) is not None:
            inner.model.dropout = None
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

    def encode(self, text: str, *, places: bool = False) -> list[int]:
        """Returns the ids of `text`, without `<bos>` or `<eos>`.

        Args:
          text: any; a control token that it spells is a row of characters.
          places: whether `<locNNNN>` and `<segNNN>` in it are tokens all the same.

        Raises:
          UserError: the text has half of a surrogate pair, which no encoding has.
        """
        return self.encode_all([text], places=places)[0]

    def encode_all(self, texts: Sequence[str], *, places: bool = False) -> list[list[int]]:
        """Returns the ids of each text, as `encode`; faster for many."""
        reader, spelled = self._reader(places), self.spelled(places)
        try:
            found = reader.encode_batch(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            if (bad := next((text for text in texts if not _is_unicode(text)), None)) is None:
                raise
            raise UserError(
                f"text {bad[:80]!r}", expected="Unicode text", found="half of a surrogate pair"
            ) from error
        return [
            encoding.ids
            if spelled.keys().isdisjoint(encoding.ids)
            else [new for old in encoding.ids for new in spelled.get(old, (old,))]
            for encoding in found
        ]

    def barring(self, ids: Iterable[int]) -> "Tokenizer":
        """Returns a tokenizer whose texts do not use some ids, such as those of actions.

        What would have been such a token is written by shorter ones; all other texts are written
        as before.
        """
        out = Tokenizer(self._inner)
        out._barred, out._readers = frozenset(ids), self._readers
        return out

    def spelled(self, places: bool = False) -> Mapping[int, tuple[int, ...]]:
        """Returns how texts write the tokens that they may not use.

        Returns:
          id -> ids of the same characters, none of them barred; `<unk>` for what has no others.
          Tokens that plain text cannot have are left out.
        """
        if places not in self._spelled:
            self._spelled[places] = self._spell(places)
        return self._spelled[places]

    def _spell(self, places: bool) -> dict[int, tuple[int, ...]]:
        vocabulary = self._inner.get_vocab(with_added_tokens=False)
        kept = {token for name, token in vocabulary.items() if places and _PLACE.fullmatch(name)}
        barred = {*self._barred, *self._controls.values()} - {self.special.unk, *kept}
        allowed = {name: token for name, token in vocabulary.items() if token not in barred}
        return {
            token: tuple(self._pieces(name, allowed))
            for name, token in vocabulary.items()
            if token in barred
        }

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

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        """The tokens that stand for no text, by name."""
        added = self._inner.get_added_tokens_decoder()
        return {
            token.content: number
            for number, token in added.items()
            if token.content.strip() and (token.special or _CONTROL.fullmatch(token.content))
        }

    def _reader(self, places: bool) -> tokenizers.Tokenizer:
        """Returns what reads plain text, or text with places.

        The library takes tokens that are marked special for text where it is told so; in the
        tokenizer itself they keep their marks, by which they are left out in decoding.
        """
        if places not in self._readers:
            content = json.loads(self._inner.to_str())
            for token in content["added_tokens"]:
                is_kept = places and _PLACE.fullmatch(token["content"])
                token["special"] = token["content"] in self._controls and not is_kept
            reader = tokenizers.Tokenizer.from_str(json.dumps(content))
            reader.encode_special_tokens = True
            self._readers[places] = reader
        return self._readers[places]

    def _pieces(self, text: str, vocabulary: Mapping[str, int]) -> list[int]:
        """Writes a token's name by the longest pieces there are, its rest by bytes."""
        out: list[int] = []
        while text:
            length = next((n for n in range(len(text), 0, -1) if text[:n] in vocabulary), 0)
            if length:
                out.append(vocabulary[text[:length]])
            else:
                units = [vocabulary.get(f"<0x{unit:02X}>") for unit in text[0].encode()]
                whole = [unit for unit in units if unit is not None]
                out += whole if len(whole) == len(units) else [self.special.unk]
            text = text[max(length, 1) :]
        return out


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
