"""The one exception that this package's own commands turn into a message and exit code 2, and words for messages."""

import unicodedata
from collections.abc import Iterable, Sequence

NUM_LISTED = 10


class UserError(ValueError):
    """Input that the user can mend: its message names the thing, the value and what to do."""


def listing_of(items: Iterable[object]) -> str:
    """Enough of them for a message, printable."""
    listed = [printable(str(item)) for item in items]
    rest = f" and {len(listed) - NUM_LISTED} more" if len(listed) > NUM_LISTED else ""
    return ", ".join(listed[:NUM_LISTED]) + rest


def lines_of(problems: Sequence[str]) -> str:
    """Enough of them for the end of a message, each on a line of its own."""
    rest = [f"and {len(problems) - NUM_LISTED} more"] if len(problems) > NUM_LISTED else []
    return "".join(f"\n  {line}" for line in [*problems[:NUM_LISTED], *rest])


def printable(text: str) -> str:
    """Text with escapes for what would act on a terminal or can't be encoded, as names of files and keys may bring it.

    These are Unicode's control, format and surrogate characters, but for line breaks and tabs.
    """
    return "".join(
        character
        if character in "\n\t" or not unicodedata.category(character).startswith("C")
        else character.encode("unicode_escape").decode()
        for character in text
    )
