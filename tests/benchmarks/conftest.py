"""A file for the benchmarks to read."""

from pathlib import Path

import pytest

from benchmarks.videos import generated


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """63 frames of 340 × 256: a clip of 32 at stride 2 fits in one way."""
    return generated("320", tmp_path_factory.mktemp("videos"), seconds=2.1)
