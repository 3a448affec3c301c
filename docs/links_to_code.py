"""A hook of mkdocs: where a page links to a module's file, the site links to the module in the API reference."""

import re

LINK = re.compile(r"\]\(\.\./(nnunetv2_cfnet/[\w/]+?)(?:/__init__)?\.py\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn `[text](../nnunetv2_cfnet/cli.py)` into `[text][nnunetv2_cfnet.cli]`, which mkdocstrings resolves."""
    return LINK.sub(lambda link: f"][{link[1].replace('/', '.')}]", markdown)
