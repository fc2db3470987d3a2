"""Exported models take any number of clips, whatever number they were exported with."""

import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.support import random_clips, tiny_model
from vivit.config import ModelConfig
from vivit.labels import by_head

VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 1},
    "factorised self-attention": {"variant": "factorised_self_attention"},
    "factorised dot-product": {"variant": "factorised_dot_product"},
    "average over time": {"variant": "factorised_encoder", "temporal_layers": 0},
    "attentive pooling": {"variant": "factorised_encoder", "temporal_layers": 0, "attentive_pooling": True},
    "mean of the tokens": {"variant": "spatiotemporal", "pooling": "mean"},
    "means of the tokens, adapter": {
        "variant": "factorised_encoder",
        "temporal_layers": 1,
        "pooling": "mean",
        "adapter_size": 4,
    },
    "two heads, single frames": {
        "heads": {"verb": 3, "noun": 4},
        "representation_size": 8,
        "embedding": "uniform_frames",
        "sampled_frames": 3,
    },
}
EXPORTED, RUN = 2, (1, 5)  # clips


def clips(config: ModelConfig, number: int, dtype: torch.dtype) -> Tensor:
    """Of the model's size: floats in [-1, 1], or uint8."""
    video = random_clips(config, number)
    return video if dtype != torch.uint8 else ((video + 1) * 127.5).to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("kind", VARIANTS)
def test_torch_export(kind: str, dtype: torch.dtype) -> None:
    model = tiny_model(**VARIANTS[kind])
    video = clips(model.config, EXPORTED, dtype)
    program = torch.export.export(model, (video,), dynamic_shapes={"video": {0: torch.export.Dim("batch")}})
    for number in RUN:
        video = clips(model.config, number, dtype)
        expected, found = by_head(model(video)), by_head(program.module()(video))
        assert found.keys() == expected.keys()
        for head, logits in expected.items():
            torch.testing.assert_close(found[head], logits)


@pytest.mark.parametrize("kind", VARIANTS)
def test_onnx_by_tracing(kind: str, tmp_path: Path) -> None:
    """Export a model of one layer, run it on other numbers of clips, and compare with the model itself."""
    model = tiny_model(**VARIANTS[kind], num_layers=1)
    path, axes = tmp_path / "model.onnx", {"video": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself and about checks of fixed sizes
        example = random_clips(model.config, EXPORTED)
        torch.onnx.export(model, (example,), path, input_names=["video"], dynamo=False, dynamic_axes=axes)
    session = onnxruntime.InferenceSession(path)
    for number in RUN:
        video = random_clips(model.config, number)
        found = session.run(None, {"video": video.numpy()})
        for logits, expected in zip(found, by_head(model(video)).values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
