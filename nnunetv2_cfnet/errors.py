"""The one exception that this package's own commands turn into a message and exit code 2, and words for messages."""

from collections.abc import Iterable

NUM_LISTED = 10


class UserError(ValueError):
    """Input that the user can mend: its message names the thing, the value and what to do."""


def listing_of(items: Iterable[object]) -> str:
    """Enough of them for a message."""
    listed = list(map(str, items))
    rest = f" and {len(listed) - NUM_LISTED} more" if len(listed) > NUM_LISTED else ""
    return ", ".join(listed[:NUM_LISTED]) + rest
