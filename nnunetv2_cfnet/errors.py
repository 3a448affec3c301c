"""The one exception that this package's own commands turn into a message and exit code 2."""


class UserError(ValueError):
    """Input that the user can mend: its message names the thing, the value and the way out."""
