"""Qt resource files are unpacked as they were packed."""

import struct
import zlib
from pathlib import Path

import pytest

from benchmarks.unpack_rcc import FOLDER, ZLIB, ZSTD, main, unpack


def pack(version: int) -> bytes:
    """A resource file with plain.txt, and a folder with packed.txt (zlib) and other.txt (zstd)."""
    names, contents = b"", b""

    def add_name(text: str) -> int:
        nonlocal names
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return len(names) - 6 - 2 * len(text)

    def add_content(content: bytes) -> int:
        nonlocal contents
        contents += struct.pack(">I", len(content)) + content
        return len(contents) - 4 - len(content)

    time = b"" if version < 2 else bytes(8)
    packed = struct.pack(">I", 600) + zlib.compress(b"second" * 100)
    nodes = [
        struct.pack(">IHII", 0, FOLDER, 2, 1),
        struct.pack(">IHHHI", add_name("plain.txt"), 0, 0, 0, add_content(b"first")),
        struct.pack(">IHII", add_name("größer"), FOLDER, 2, 3),
        struct.pack(">IHHHI", add_name("packed.txt"), ZLIB, 0, 0, add_content(packed)),
        struct.pack(">IHHHI", add_name("other.txt"), ZSTD, 0, 0, add_content(b"?")),
    ]
    tree = b"".join(node + time for node in nodes)
    start = 20 if version < 3 else 24
    header = struct.pack(">4sIIII", b"qres", version, start, start + len(tree), start + len(tree) + len(contents))
    return header + (b"" if version < 3 else bytes(4)) + tree + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_come_out_with_their_names(version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.rcc").write_bytes(pack(version))
    (tmp_path / "other.rcc").write_bytes(b"something else")
    main(tmp_path / "out", [tmp_path / "other.rcc", tmp_path / "some.rcc"])
    found = {
        file.relative_to(tmp_path / "out").as_posix(): file.read_bytes() for file in (tmp_path / "out").rglob("*.*")
    }
    assert found == {"plain.txt": b"first", "größer/packed.txt": b"second" * 100}
    said = capsys.readouterr()
    assert "unpacked 2 files" in said.out and "passed over 1" in said.out
    assert "other.rcc" in said.err


def test_other_files_are_refused() -> None:
    with pytest.raises(ValueError, match="no Qt resource file"):
        list(unpack(b"RIFF"))
