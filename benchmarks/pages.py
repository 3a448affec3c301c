"""Pages of docs/ whose tables are written by the scripts here, between two markers."""

from pathlib import Path

from nnunetv2_cfnet.files.whole import whole_file


def markers(script: str) -> tuple[str, str]:
    """Between which a page has what a script writes."""
    return f"<!-- begin: written by benchmarks/{script} -->", f"<!-- end: written by benchmarks/{script} -->"


def write_between_markers(page: Path, script: str, text: str) -> None:
    """Replace what stands between a script's markers; what stands around them is kept. A new page is begun."""
    begin, end = markers(script)
    before, _, rest = (page.read_text() if page.is_file() else "").partition(begin)
    after = rest.partition(end)[2] or "\n"
    with whole_file(page) as file:
        file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
