"""Unpacks Qt resource files, in which some Debian packages keep free photographs; Qt's own rcc only packs them.

python -m benchmarks.unpack_rcc photos usr/share/gcompris-qt/rcc/*.rcc
"""

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ZLIB, FOLDER, ZSTD = 1, 2, 4


def unpack(data: bytes) -> Iterator[tuple[PurePosixPath, bytes | None]]:
    """Path and content of each file in a resource file; the content is None if it is compressed with zstd.

    Raises:
        ValueError: this is not a resource file.
    """
    if data[:4] != b"qres":
        raise ValueError("this is no Qt resource file")
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    node_size = 14 if version < 2 else 22

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", data, names + offset)
        start = names + offset + 6  # after the length and a hash
        return data[start : start + 2 * length].decode("utf-16-be")

    def walk(node: int, folder: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes | None]]:
        at = tree + node * node_size
        name_offset, flags = struct.unpack_from(">IH", data, at)
        path = folder / name(name_offset) if node else folder
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack_from(">I", data, at + 10)
        (length,) = struct.unpack_from(">I", data, contents + offset)
        content = data[contents + offset + 4 : contents + offset + 4 + length]
        if flags & ZLIB:
            content = zlib.decompress(content[4:])  # after the length of the result
        yield path, None if flags & ZSTD else content

    yield from walk(0, PurePosixPath())


def main(folder: Path, files: list[Path]) -> None:
    unpacked, packed = 0, 0
    for file in files:
        try:
            for path, content in unpack(file.read_bytes()):
                if content is None:
                    packed += 1
                elif ".." not in path.parts:
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(content)
                    unpacked += 1
        except (OSError, ValueError, struct.error, zlib.error) as error:
            print(f"{file}: {error}", file=sys.stderr)
    skipped = f"; passed over {packed} that are packed with zstd" if packed else ""
    print(f"unpacked {unpacked} files to {folder}{skipped}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
