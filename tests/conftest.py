"""What the rooms share: a data set of two classes that any model can tell apart, and a recipe of seconds."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vivit.training.recipe import Recipe

CLIPS = 6  # of each class; one of them is held out


def _encode_plain(path: Path, brightness: int, frames: int = 8) -> None:
    """A video of 32 × 40 pixels of about one brightness."""
    noise = np.random.default_rng(brightness)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        for _ in range(frames):
            picture = np.clip(brightness + noise.integers(-20, 20, (32, 40, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def bright_dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the class folders bright/ and dark/; not to be written to."""
    data = tmp_path_factory.mktemp("bright_dark")
    for name, brightness in (("bright", 190), ("dark", 30)):
        (data / name).mkdir()
        for number in range(CLIPS):
            _encode_plain(data / name / f"{name}{number}.mp4", brightness + 5 * number)
    return data


@pytest.fixture
def tiny_recipe() -> Recipe:
    """Two epochs of two steps on `bright_dark`, with chance in the network."""
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
