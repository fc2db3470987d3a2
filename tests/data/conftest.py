"""The videos of the tests of decoding."""

from tests.video.conftest import encode, numbered, read_numbers

__all__ = ["encode", "numbered", "read_numbers"]
