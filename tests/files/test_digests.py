import os
from pathlib import Path

from nnunetv2_cfnet.files.digests import content_digest


def test_digest_follows_content_and_neither_name_nor_time(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"x" * (1 << 21))
    other.write_bytes(b"x" * (1 << 21))
    os.utime(other, (0, 0))
    assert content_digest(file) == content_digest(other)
    status = file.stat()
    file.write_bytes(b"x" * ((1 << 21) - 1) + b"y")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_digest(file) != content_digest(other)
