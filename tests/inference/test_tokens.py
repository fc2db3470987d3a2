"""Each kind of features against what the last LayerNorm gave, read by hand, and against transformers."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import VivitConfig, VivitForVideoClassification

from tests.support import random_weights, refused, tiny_model
from vivit.config import Preprocessing
from vivit.inference.streaming import Window, windows
from vivit.inference.tokens import What
from vivit.inference.views import clip_spec
from vivit.labels import by_head
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.video.clips import clip_indices
from vivit.weights.huggingface import from_huggingface

FACTORISED: dict[str, Any] = {"variant": "factorised_encoder", "temporal_layers": 2}
CASES: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "spatiotemporal, mean, representation": {
        **{"variant": "spatiotemporal", "pooling": "mean", "representation_size": 7}
    },
    "spatiotemporal, attentive": {"variant": "spatiotemporal", "attentive_pooling": True},
    "factorised encoder": FACTORISED,
    "factorised encoder, mean": {**FACTORISED, "pooling": "mean"},
    "factorised encoder, attentive": {**FACTORISED, "attentive_pooling": True},
    "baseline": {**FACTORISED, "temporal_layers": 0},
    "baseline, mean": {**FACTORISED, "temporal_layers": 0, "pooling": "mean"},
    "factorised self-attention": {"variant": "factorised_self_attention"},
    "factorised dot product": {"variant": "factorised_dot_product"},
}
TIMES, PLACES, WIDTH = 3, 6, 16  # of a tiny model


def made_video(model: ViViT, frames: int) -> Tensor:
    shape = (frames, 3, *model.config.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def made_windows(model: ViViT, video: Tensor, what: What) -> list[Window]:
    return list(windows(model, video.split(4), 3, 2, what))


@torch.inference_mode()
def normalised(model: ViViT, clip: Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
    """What the last LayerNorm gave for a clip, and the model's features and logits."""
    encoder, caught = model.encoder, []
    last = (encoder.temporal or encoder.spatial) if isinstance(encoder, FactorisedEncoder) else encoder
    hook = last.norm.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    logits, features = model(clip), model.features(clip)
    hook.remove()
    return caught[-1].numpy(), features[0], by_head(logits)["classes"][0]


def read_by_hand(case: str, made: np.ndarray) -> dict[str, np.ndarray]:
    """Kind → features, of the output of the last LayerNorm; none for a kind that the model does not have."""
    if case.startswith("baseline"):  # (T, S, D) or (T, 1 + S, D): each time alone
        assert len(made) == TIMES
        own = made[:, -PLACES:]
        found = {"tokens": made.reshape(-1, WIDTH), "temporal": np.stack([time.mean(axis=0) for time in own])}
        if made.shape[1] > PLACES:
            found["token"] = sum(time[0] for time in made) / TIMES
    else:
        tokens = made.reshape(-1, WIDTH)  # (…, T, S, D) of models 3 and 4, too: time by time
        each = 1 if case.startswith("factorised encoder") else PLACES
        first = len(tokens) - TIMES * each
        times = [tokens[first + time * each : first + (time + 1) * each] for time in range(TIMES)]
        found = {"tokens": tokens, "temporal": np.stack([time.mean(axis=0) for time in times])}
        if first:
            assert first == 1
            found["token"] = tokens[0]
    found["pooled"] = found["temporal"].mean(axis=0)  # each time has as many tokens
    return found


@pytest.mark.parametrize("case", CASES)
def test_each_kind_is_what_it_says(case: str) -> None:
    model = tiny_model(preprocessing=Preprocessing(frame_stride=2, resize=16), std=0.2, **CASES[case])
    spec, video = clip_spec(model), made_video(model, 17)
    made: dict[str, list[Window]] = {}
    has_token = model.config.pooling == "token"
    for what in get_args(What):
        if what != "token" or has_token:
            made[what] = made_windows(model, video, what)
        else:
            refused(lambda: made_windows(model, video, "token"), "what: the model has no class token")
    for number, window in enumerate(made["head"]):
        clip = video[clip_indices(len(video), spec.num_frames, spec.stride, window.start, spec.short)][None]
        output, head, logits = normalised(model, clip)
        expected = {"head": head.numpy(), **read_by_hand(case, output)}
        assert expected.keys() == made.keys()
        for what, features in expected.items():
            found = made[what][number]
            assert found.start == window.start and found.features is not None
            np.testing.assert_allclose(found.features, features, atol=1e-5)
            torch.testing.assert_close(found.logits["classes"], logits, atol=1e-5, rtol=1e-5)


def test_the_tokens_of_model_1_are_the_last_hidden_state_of_transformers(tmp_path: Path) -> None:
    config = VivitConfig(
        num_frames=4,
        image_size=[32, 48],
        tubelet_size=[2, 8, 16],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        num_labels=3,
    )
    theirs = random_weights(VivitForVideoClassification(config), std=0.2).eval()
    theirs.save_pretrained(tmp_path)
    ours = from_huggingface(tmp_path).eval()
    ours.preprocessing = Preprocessing(frame_stride=1, resize=32)  # the size of the frames
    video = made_video(ours, 7)
    for window in made_windows(ours, video, "tokens"):
        clip = clip_spec(ours)
        numbers = clip_indices(len(video), clip.num_frames, clip.stride, window.start, clip.short)
        with torch.inference_mode():
            state = theirs.vivit(video[numbers][None].float() / 127.5 - 1).last_hidden_state[0]
        assert window.features is not None and window.features.shape == state.shape == (1 + 2 * 4 * 3, 32)
        torch.testing.assert_close(window.features, state, atol=1e-4, rtol=1e-4)
