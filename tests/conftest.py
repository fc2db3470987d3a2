"""Fixtures of all tests: a data set of two classes that any model tells apart, and a recipe that trains in seconds."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.support import encode, noisy
from vivit.training.recipe import Recipe

# Started in the background of a script, the suite inherits that Ctrl-C is ignored, and so would the commands it tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So is SIGHUP under nohup.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests choose float32 on every processor, unless they say otherwise.
torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False

CLIPS = 6  # of each class; one of them is held out

# What `--fast`, and with it `make test-fast`, leaves out: files that take long, or test what seldom changes.
SLOW = (
    "benchmarks",
    "data/test_pack.py",
    "end_to_end/test_cli.py",
    "end_to_end/test_clusters.py",
    "end_to_end/test_data_cli.py",
    "end_to_end/test_demo.py",
    "end_to_end/test_docs.py",
    "end_to_end/test_readme.py",
    "end_to_end/test_training_cli.py",
    "evaluation/test_partial.py",
    "evaluation/test_processes.py",
    "experiments",
    "inference/test_export.py",
    "model/test_export.py",
    "training/test_distributed.py",
    "training/test_loop.py",
    "training/test_many_processes.py",
    "training/test_memory.py",
    "training/test_nothing_lost.py",
    "training/test_overfit.py",
    "training/test_recipes.py",
    "video/test_hostile.py",
    "video/test_isolated.py",
    "video/test_parallel.py",
    "video/test_strange_files.py",
    "weights/test_files.py",
    "weights/test_fuzz.py",
)

# Commands that tests start inherit this: several processes with many threads each slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out the files that take long")
    parser.addoption("--rewrite", action="store_true", help="rewrite the help pages in tests/end_to_end/transcripts")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    return True if config.getoption("--fast") and name in SLOW else None


@pytest.fixture(scope="session")
def bright_dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the class folders bright/ and dark/ of six videos each. Tests must not write to it."""
    data = tmp_path_factory.mktemp("bright_dark")
    for name, brightness in (("bright", 190), ("dark", 30)):
        (data / name).mkdir()
        for number in range(CLIPS):
            encode(data / name / f"{name}{number}.mp4", noisy(brightness + 5 * number))
    return data


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Two epochs of two steps on `bright_dark`, with dropout and stochastic depth."""
    return Recipe(
        model="vivit-ti-16x2-fe",
        num_frames=4,
        frame_stride=1,
        image_size=32,
        architecture={
            "hidden_size": 32,
            "num_heads": 2,
            "num_layers": 1,
            "mlp_dim": 64,
            "temporal_layers": 1,
            "dropout": 0.2,
        },
        epochs=2,
        batch_size=4,
        optimiser="adamw",
        learning_rate=3e-3,
        warmup_epochs=0.5,
        weight_decay=0.05,
        stochastic_depth=0.3,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
