"""A hash that identifies a model."""

import hashlib
import json

import torch

from vivit.model.vivit import ViViT


def hash_model(model: ViViT) -> str:
    """SHA-256, in hexadecimal, of a model's weights, architecture, preprocessing and classes."""
    about = [
        model.config.model_dump(mode="json"),
        model.preprocessing.model_dump(mode="json", exclude_none=True),
        model.classes,
    ]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
