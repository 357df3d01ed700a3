"""The exception for a mistake the user can mend, printed as one line, and that for an eviction."""

import difflib
from collections.abc import Iterable, Sequence

_LONGEST = 1000  # characters of one part of a message


class UserError(Exception):
    """A wrong input, named, with what was expected, what was found and what to do.

    Args:
      what: the thing and what is wrong with it, e.g. `config.actions.bin: no such field`.
      expected: what would have been right, if one phrase says it.
      found: what was there instead.
      fix: the next thing to do, as a sentence without its full stop.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        fix: str | None = None,
    ):
        facts = []
        if expected is not None:
            facts.append(f"expected {_cut(expected)}")
        if found is not None:
            facts.append(f"found {_cut(found)}")
        message = f"{_cut(what)}: {', '.join(facts)}" if facts else _cut(what)
        message = f"{message}. {fix}." if fix else f"{message}."
        # Texts of other libraries have several lines.
        super().__init__(" ".join(message.split()))


class TextError(UserError):
    """A text of a dataset that is blank or does not fit its slots; the same in every example.

    Attributes:
      text: the text.
      needed: tokens that it needs, 0 if it is blank.
    """

    text, needed = "", 0

    def of(self, text: str, needed: int = 0) -> "TextError":
        """Notes the text and what it needs; returns itself."""
        self.text, self.needed = text, needed or self.needed
        return self


def _cut(value: object) -> str:
    """Returns text that is short enough to be read; a file may hold names of any length."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class Preempted(KeyboardInterrupt):
    """The machine is taken away (SIGTERM, maintenance); what was done is saved.

    The command line ends with code 75 (EX_TEMPFAIL), by which launchers know to run it again.
    """


def listed(names: Iterable[object], most: int = 8) -> str:
    """Returns names with commas between them; of a long list the first and how many follow."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """Returns the `fix` that names the choice most like `word`; None if none is like it."""
    near = difflib.get_close_matches(word, choices, n=1)
    return f"The nearest is {near[0]!r}" if near else None
