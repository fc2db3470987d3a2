"""The models to measure: this package's, plain ones, and those of other packages, all with random weights."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.plain import PlainViViT
from vivit.config import ModelConfig, Variant
from vivit.inference.prepare import prepare
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision

VARIANTS: tuple[Variant, ...] = get_args(Variant)
OURS = "vivit"
TRANSFORMERS = "transformers"
# Instead of ViViT-B/16x2 on 32 × 224 × 224, to check that a benchmark works.
QUICK: dict[str, Any] = {
    "num_frames": 4,
    "image_size": 32,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 64,
}


@dataclass(frozen=True)
class Contender:
    words: str
    """Its name in tables."""
    build: Callable[[ModelConfig], nn.Module]
    """A network that takes (B, T, C, H, W) floats and returns logits."""
    variants: tuple[Variant, ...] = VARIANTS
    package: str = "torch"
    """The package that must be installed."""

    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


class _Logits(nn.Module):
    """A network of transformers that returns only logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.network(clips).logits
        return logits


def transformers(config: ModelConfig, attention: str) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    its_config = VivitConfig(
        image_size=config.image_size[0],
        num_frames=config.num_frames,
        tubelet_size=list(config.tubelet_size),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        num_labels=config.num_classes,
        attn_implementation=attention,
    )
    return _Logits(VivitForVideoClassification(its_config))


class _ChannelsFirst(nn.Module):
    """A network of vit-pytorch, which takes (B, C, T, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.network(clips.transpose(1, 2))
        return logits


def vit_pytorch(config: ModelConfig) -> nn.Module:
    # Load only the file, because the package imports torchvision, which this model does not need.
    package = importlib.util.find_spec("vit_pytorch")
    assert package is not None and package.submodule_search_locations is not None
    place = Path(package.submodule_search_locations[0]) / "vivit.py"
    spec = importlib.util.spec_from_file_location("vit_pytorch_vivit", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    is_model_2 = config.variant == "factorised_encoder"
    network = module.ViViT(
        image_size=config.image_size[0],
        image_patch_size=config.tubelet_size[1],
        frames=config.num_frames,
        frame_patch_size=config.tubelet_size[0],
        num_classes=config.num_classes,
        dim=config.hidden_size,
        spatial_depth=config.num_layers,
        temporal_depth=config.temporal_layers if is_model_2 else config.num_layers,
        heads=config.num_heads,
        dim_head=config.hidden_size // config.num_heads,
        mlp_dim=config.mlp_dim,
        # Model 3 has no class token.
        pool="cls" if is_model_2 else "mean",
        variant="factorized_encoder" if is_model_2 else "factorized_self_attention",
    )
    return _ChannelsFirst(network)


CONTENDERS: dict[str, Contender] = {
    OURS: Contender("`vivit`", ViViT),
    "plain": Contender("plain", PlainViViT),
    TRANSFORMERS: Contender(
        "transformers, sdpa", lambda config: transformers(config, "sdpa"), ("spatiotemporal",), "transformers"
    ),
    "transformers-eager": Contender(
        "transformers, eager", lambda config: transformers(config, "eager"), ("spatiotemporal",), "transformers"
    ),
    "vit-pytorch": Contender(
        "vit-pytorch", vit_pytorch, ("factorised_encoder", "factorised_self_attention"), "vit_pytorch"
    ),
}


def build(name: str, config: ModelConfig) -> nn.Module:
    """Build a model with the same random weights in every process."""
    torch.manual_seed(0)
    return CONTENDERS[name].build(config)


def random_clips(name: str, config: ModelConfig, clips: int) -> Tensor:
    """(B, T, C, H, W), as the model's own loader or processor yields them: bytes for ours, else floats in [−1, 1]."""
    shape = (clips, config.num_frames, 3, *config.image_size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return pixels if name == OURS else pixels / 127.5 - 1


def in_precision(network: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """Move a network to a device and convert its weights, in place; ours as `vivit predict` does."""
    if isinstance(network, ViViT):
        prepare(network, str(device), precision)
        return network
    return network.to(device, DTYPES[precision])
