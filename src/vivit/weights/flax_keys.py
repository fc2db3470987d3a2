"""Names and layouts of Scenic's weights ↔ ours; Google's image ViTs share most of them.

Kernels are (in, out), and attention has an axis for its heads: queries (D, H, d), output (H, d, D).
"""

from collections.abc import Callable

from torch import Tensor

from vivit.config import ModelConfig
from vivit.weights.keymap import ROW, SAME, TRANSPOSED, Layout, Rule, Tensors, fused_heads, join, position_grid
from vivit.weights.weight_file import Shape


def key_map(config: ModelConfig) -> list[Rule]:
    """Scenic's names and layouts (projects/vivit/model.py) ↔ ours."""
    times, *places = config.grid
    heads, counts = zip(*config.class_counts.items(), strict=True)
    if config.variant == "factorised_encoder":
        encoders = [
            *encoder("SpatialTransformer", "cls_SpatialTransformer", "encoder.spatial.", tuple(places), config, BLOCK),
            *encoder("TemporalTransformer", "cls_TemporalTransformer", "encoder.temporal.", (times,), config, BLOCK),
        ]
    else:
        block = FACTORISED_BLOCK if config.variant == "factorised_self_attention" else BLOCK
        encoders = encoder("Transformer", "cls", "encoder.", config.grid, config, block)
    return [
        Rule(("embedding/kernel",), ("embedding.weight",), kernel(single_frames=config.embedding == "uniform_frames")),
        Rule(("embedding/bias",), ("embedding.bias",), SAME),
        *encoders,
        *dense("pre_logits", "representation"),
        Rule(
            ("output_projection/kernel",),
            tuple(f"heads.{head}.weight" for head in heads),
            Layout(lambda x: x.T.split(counts), lambda *parts: (join(parts).T,)),
        ),
        Rule(
            ("output_projection/bias",),
            tuple(f"heads.{head}.bias" for head in heads),
            Layout(lambda x: x.split(counts), lambda *parts: (join(parts),)),
        ),
    ]


def encoder(
    theirs: str, token: str, ours: str, grid: Shape, config: ModelConfig, block: "dict[str, tuple[str, Part]]"
) -> list[Rule]:
    """Rules of one encoder with its class token and positions; `ours` is the prefix of our names."""
    layers = (config.temporal_layers or 0) if theirs == "TemporalTransformer" else config.num_layers
    positions: tuple[str, ...] = (f"{ours}positions.embedding",)
    rules = []
    if has_token := config.pooling == "token":
        positions = (f"{ours}positions.class_position", *positions)
        rules.append(Rule((token,), (f"{ours}positions.class_token",), ROW))
    return [
        *rules,
        Rule((f"{theirs}/posembed_input/pos_embedding",), positions, position_grid(grid, has_token)),
        *(
            rule
            for i in range(layers)
            for name, (our_name, part) in block.items()
            for rule in part(f"{theirs}/encoderblock_{i}/{name}", f"{ours}blocks.{i}.{our_name}", config)
        ),
        *norm(f"{theirs}/encoder_norm", f"{ours}norm"),
    ]


def norm(theirs: str, ours: str, _: ModelConfig | None = None) -> list[Rule]:
    return [
        Rule((f"{theirs}/scale",), (f"{ours}.weight",), SAME),
        Rule((f"{theirs}/bias",), (f"{ours}.bias",), SAME),
    ]


def dense(theirs: str, ours: str, _: ModelConfig | None = None) -> list[Rule]:
    return [
        Rule((f"{theirs}/kernel",), (f"{ours}.weight",), TRANSPOSED),
        Rule((f"{theirs}/bias",), (f"{ours}.bias",), SAME),
    ]


def attention(theirs: str, ours: str, config: ModelConfig) -> list[Rule]:
    """Three kernels (D, H, d) ↔ one with rows ordered (H, 3, d)."""
    heads = config.num_heads
    fused = fused_heads(heads)

    def read_kernels(*kernels: Tensor) -> Tensors:
        return fused.read(*(x.permute(1, 2, 0).flatten(0, 1) for x in kernels))  # (D, H, d) → (H · d, D)

    def write_kernels(rows: Tensor) -> Tensors:
        return tuple(x.unflatten(0, (heads, -1)).permute(2, 0, 1) for x in fused.write(rows))

    def read_biases(*biases: Tensor) -> Tensors:
        return fused.read(*(x.flatten() for x in biases))  # (H, d) → (H · d)

    def write_biases(rows: Tensor) -> Tensors:
        return tuple(x.unflatten(0, (heads, -1)) for x in fused.write(rows))

    parts = ("query", "key", "value")
    out = Layout(lambda x: (x.flatten(0, 1).T,), lambda x: (x.T.unflatten(0, (heads, -1)),))  # (H, d, D) ↔ (D, H · d)
    return [
        Rule(
            tuple(f"{theirs}/{x}/kernel" for x in parts), (f"{ours}.qkv.weight",), Layout(read_kernels, write_kernels)
        ),
        Rule(tuple(f"{theirs}/{x}/bias" for x in parts), (f"{ours}.qkv.bias",), Layout(read_biases, write_biases)),
        Rule((f"{theirs}/out/kernel",), (f"{ours}.proj.weight",), out),
        Rule((f"{theirs}/out/bias",), (f"{ours}.proj.bias",), SAME),
    ]


def kernel(single_frames: bool) -> Layout:
    """(t, h, w, C, D), or (h, w, C, D) for single frames ↔ (D, C, t, h, w)."""
    if single_frames:
        return Layout(lambda x: (x.permute(3, 2, 0, 1)[:, :, None],), lambda x: (x[:, :, 0].permute(2, 3, 1, 0),))
    return Layout(lambda x: (x.permute(4, 3, 0, 1, 2),), lambda x: (x.permute(2, 3, 4, 1, 0),))


Part = Callable[[str, str, ModelConfig], list[Rule]]
# Scenic's names in a block of models 1, 2 and 4 → ours, and the rules of each part.
BLOCK: dict[str, tuple[str, Part]] = {
    "LayerNorm_0": ("norm1", norm),
    "MultiHeadDotProductAttention_0": ("attn", attention),
    "LayerNorm_1": ("norm2", norm),
    "MlpBlock_0/Dense_0": ("mlp.fc1", dense),
    "MlpBlock_0/Dense_1": ("mlp.fc2", dense),
}
# The same for model 3.
FACTORISED_BLOCK: dict[str, tuple[str, Part]] = {
    "LayerNorm_space": ("norm_space", norm),
    "MultiHeadDotProductAttention_space": ("attn_space", attention),
    "LayerNorm_time": ("norm_time", norm),
    "MultiHeadDotProductAttention_time": ("attn_time", attention),
    "LayerNorm_mlp": ("norm_mlp", norm),
    "MlpBlock/Dense_0": ("mlp.fc1", dense),
    "MlpBlock/Dense_1": ("mlp.fc2", dense),
}
