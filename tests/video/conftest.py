"""`encode`, `numbered` and `read_numbers` of tests/support.py as fixtures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests import support


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    return support.encode


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[Tensor], list[int]]:
    return support.read_numbers


@pytest.fixture(scope="session")
def numbered() -> Callable[[int], np.ndarray]:
    return support.numbered
