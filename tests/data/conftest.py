"""Share the fixtures of the video tests."""

from tests.video.conftest import encode, numbered, read_numbers

__all__ = ["encode", "numbered", "read_numbers"]
