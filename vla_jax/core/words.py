"""What counts as words: the one definition of a blank instruction, question or answer."""

# Letters and marks that Unicode counts as printable and that nobody sees: fillers, the blank
# Braille pattern, the grapheme joiner.
_UNSEEN = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")


def words(text: str) -> str:
    """Returns the words of an instruction or a question as prompts write them.

    White space is collapsed, and what ends a sentence is left out; nothing is left of a text that
    is blank.
    """
    kept = " ".join(text.split()).rstrip("?.")
    return kept if any(_is_seen(character) and character not in "?." for character in kept) else ""


def is_blank(text: str) -> bool:
    """Whether an instruction or a question has no word that anybody could read."""
    return not words(text)


def is_seen(text: str) -> bool:
    """Whether a text, such as an answer, has a character that can be seen."""
    return any(map(_is_seen, text))


def _is_seen(character: str) -> bool:
    # Control characters and those of no width are not printable.
    return character.isprintable() and not character.isspace() and character not in _UNSEEN
