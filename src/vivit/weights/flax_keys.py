"""Names and layouts of Scenic's weights ↔ ours; Google's image ViTs share most of them.

Kernels are (in, out), and attention has an axis for its heads: queries (D, H, d), output (H, d, D).
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from vivit.config import ModelConfig
from vivit.weights.keymap import ROW, TRANSPOSED, Layout, Rule, Tensors, fused_heads, join, module, position_grid
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
    # (D, all classes) ↔ (K, D) of each head; all biases ↔ (K,) of each head
    outputs = Layout(lambda x: x.movedim(0, -1).split(counts), lambda *parts: (join(parts).movedim(0, -1),))
    return [
        *embedding(single_frames=config.embedding == "uniform_frames"),
        *encoders,
        *dense("pre_logits", "representation"),
        *(
            Rule((f"output_projection/{theirs}",), tuple(f"heads.{head}.{ours}" for head in heads), outputs)
            for theirs, ours in (("kernel", "weight"), ("bias", "bias"))
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


def norm(theirs: str, ours: str, _: ModelConfig | None = None) -> Sequence[Rule]:
    return module(theirs, ours, "/scale", "/bias")


def dense(theirs: str, ours: str, _: ModelConfig | None = None) -> Sequence[Rule]:
    return module(theirs, ours, "/kernel", "/bias", TRANSPOSED)


def attention(theirs: str, ours: str, config: ModelConfig) -> Sequence[Rule]:
    """Three kernels (D, H, d) ↔ one with rows ordered (H, 3, d); three biases (H, d) ↔ one."""
    heads = config.num_heads
    fused = fused_heads(heads)

    def read(*parts: Tensor) -> Tensors:
        return fused.read(*(x.flatten(-2).movedim(0, -1) for x in parts))  # (D, H, d) → (H · d, D)

    def write(rows: Tensor) -> Tensors:
        return tuple(x.movedim(-1, 0).unflatten(-1, (heads, -1)) for x in fused.write(rows))

    qkv = [
        Rule(tuple(f"{theirs}/{part}/{end}" for part in ("query", "key", "value")), (target,), Layout(read, write))
        for end, target in (("kernel", f"{ours}.qkv.weight"), ("bias", f"{ours}.qkv.bias"))
    ]
    out = Layout(lambda x: (x.flatten(0, 1).T,), lambda x: (x.T.unflatten(0, (heads, -1)),))  # (H, d, D) ↔ (D, H · d)
    return [*qkv, *module(f"{theirs}/out", f"{ours}.proj", "/kernel", "/bias", out)]


def embedding(single_frames: bool) -> Sequence[Rule]:
    """Kernel (t, h, w, C, D), or (h, w, C, D) for single frames ↔ (D, C, t, h, w)."""
    kernel = Layout(lambda x: (x.permute(4, 3, 0, 1, 2),), lambda x: (x.permute(2, 3, 4, 1, 0),))
    if single_frames:
        kernel = Layout(lambda x: (x.permute(3, 2, 0, 1)[:, :, None],), lambda x: (x[:, :, 0].permute(2, 3, 1, 0),))
    return module("embedding", "embedding", "/kernel", "/bias", kernel)


Part = Callable[[str, str, ModelConfig], Sequence[Rule]]
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
