"""The one exception that this package's own commands turn into a message and exit code 2, and words for messages."""

from collections.abc import Iterable

NUM_LISTED = 10


class UserError(ValueError):
    """Input that the user can mend: its message names the thing, the value and what to do."""


def printable(text: str) -> str:
    """The same with all but letters, digits, signs and spaces escaped, as in \\x1b.

    Names come from files of others: what they hold could steer a terminal, break a line, or fit into no encoding.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def listing_of(items: Iterable[object]) -> str:
    """Enough of them for a message."""
    listed = list(map(str, items))
    rest = f" and {len(listed) - NUM_LISTED} more" if len(listed) > NUM_LISTED else ""
    return ", ".join(listed[:NUM_LISTED]) + rest
