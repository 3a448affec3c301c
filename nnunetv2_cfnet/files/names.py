"""Names that others gave, in plans and flags: whether one may become a folder's or a file's."""


def is_plain_name(name: object) -> bool:
    """Whether it names a file or folder in the one that it is looked for in, on any system and screen."""
    return (
        isinstance(name, str) and name.isprintable() and name != "" and name[0] != "." and not set(name) & set("/\\:")
    )
