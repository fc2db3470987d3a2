"""The benchmarks are no part of the package: they are imported from the checkout."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """63 frames of 340 × 256: a clip of 32 at stride 2 fits in one way."""
    from benchmarks.videos import generated

    return generated("320", tmp_path_factory.mktemp("videos"), seconds=2.1)
