import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support import random_clips, tiny_config, tiny_model
from vivit.config import ModelConfig
from vivit.model.attention import FactorisedDotProductAttention, SelfAttention, TemporalSelfAttention
from vivit.model.encoder import MLP, Encoder, StochasticDepth
from vivit.model.vivit import ViViT
from vivit.weights.describe import multiply_adds

VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 3},
    "baseline": {"variant": "factorised_encoder", "temporal_layers": 0},
    "factorised self-attention": {"variant": "factorised_self_attention"},
    "time first": {"variant": "factorised_self_attention", "attention_order": "time_space"},
    "factorised dot-product": {"variant": "factorised_dot_product"},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def build(variant: str, **fields: Any) -> ViViT:
    """A model in training mode, with the same random weights for the same shapes."""
    return tiny_model(**{"num_layers": 3, **VARIANTS[variant], **fields}).train()


def random_video(model: ViViT, batch: int = 2) -> Tensor:
    return random_clips(model.config, batch)


# The paper's table 2 and section 4.2: B/16x2 on 32 frames of 224 × 224.


@pytest.mark.parametrize(
    ("fields", "parameters", "giga_multiply_adds"),
    [
        ({"variant": "spatiotemporal"}, 88_954_000, 455.2),
        ({"variant": "factorised_encoder"}, 115_062_928, 284.4),
        ({"variant": "factorised_self_attention"}, 117_319_312, 372.3),
        ({"variant": "factorised_dot_product"}, 88_952_464, 277.1),
        ({"variant": "factorised_encoder", "temporal_layers": 0}, 86_696_080, 283.9),
    ],
)
def test_parameters_and_multiply_adds_of_the_paper(
    fields: dict[str, Any], parameters: int, giga_multiply_adds: float
) -> None:
    config = ModelConfig(**fields)
    with torch.device("meta"):
        model = ViViT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert multiply_adds(config) / 1e9 == pytest.approx(giga_multiply_adds, rel=0.01)


# Initialisation.


def assert_uniform(values: Tensor, bound: float) -> None:
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.99 * bound
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def assert_normal(values: Tensor, deviation: float) -> None:
    assert float(values.std()) == pytest.approx(deviation, rel=0.05)
    assert abs(float(values.mean())) < 0.1 * deviation
    assert float((values.abs() > 2 * deviation).float().mean()) == pytest.approx(0.0455, abs=0.02)


def assert_lecun(weight: Tensor, inputs: int) -> None:
    """A normal truncated at two deviations, with variance 1 / inputs."""
    deviation = math.sqrt(1 / inputs)
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)
    cut = 2 * deviation / 0.8796256610342398
    assert 0.98 * cut < weight.abs().max() <= cut * 1.0001


@each_variant
def test_initialisation(variant: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "mlp_dim": 320, "num_layers": 2, "image_size": 64, "representation_size": 96}
    model = ViViT(tiny_config(**{"num_layers": 3, **VARIANTS[variant], **sizes}))
    seen = set()
    for name, value in model.state_dict().items():
        if name.endswith("qkv.weight"):
            for kernel in value.view(4, 3, 32, 128).unbind(1):
                assert_uniform(kernel, math.sqrt(6 / 256))
        elif name.endswith(("attn.proj.weight", "attn_space.proj.weight", "attn_time.proj.weight")):
            assert_uniform(value, math.sqrt(6 / 256))
        elif name.endswith(("mlp.fc1.weight", "mlp.fc2.weight")):
            assert_uniform(value, math.sqrt(6 / (128 + 320)))
        elif name.endswith(("mlp.fc1.bias", "mlp.fc2.bias")):
            assert 0.5e-6 < value.std() < 1.5e-6
        elif name.endswith("positions.embedding") and value.numel() > 1000:
            assert_normal(value, 0.02)
        elif name.endswith(("positions.embedding", "class_position")):
            assert 0.015 < value.std() < 0.025
        elif name == "embedding.weight":
            assert_lecun(value, 3 * 2 * 8 * 8)
        elif name == "representation.weight":
            assert_lecun(value, 128)
        elif "norm" in name and name.endswith("weight"):
            assert torch.equal(value, torch.ones_like(value))
        else:
            assert name.startswith("heads.") or name.endswith(("class_token", "bias")), name
            assert torch.count_nonzero(value) == 0, name
        seen.add(name.rsplit(".", 2)[-2] + "." + name.rsplit(".", 2)[-1])
    assert {"qkv.weight", "proj.weight", "fc1.bias", "norm.bias", "classes.weight", "representation.bias"} <= seen


@each_variant
def test_the_same_seed_gives_the_same_weights_whatever_they_were(variant: str) -> None:
    model = build(variant)
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model.initialise()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["embedding.weight"], states[2]["embedding.weight"])


def test_training_starts_from_equal_logits() -> None:
    model = ViViT(tiny_config())
    assert torch.count_nonzero(model(random_video(model))) == 0


# Stochastic depth and dropout.


def encoders(model: ViViT) -> Iterator[Encoder]:
    return (module for module in model.modules() if isinstance(module, Encoder))


@each_variant
def test_stochastic_depth_grows_linearly_to_the_last_layer(variant: str) -> None:
    model = build(variant, num_layers=4, stochastic_depth=0.3)
    rates = [
        [module.rate for module in encoder.modules() if isinstance(module, StochasticDepth)]
        for encoder in encoders(model)
    ]
    assert rates[0] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert all(more == pytest.approx([0.0, 0.15, 0.3]) for more in rates[1:])
    assert len(rates) == (2 if variant == "factorised encoder" else 1)


@each_variant
def test_every_branch_of_a_layer_with_rate_one_is_dropped_in_training_alone(variant: str) -> None:
    model = build(variant, stochastic_depth=1.0)
    calls: list[tuple[Tensor, Tensor]] = []
    for encoder in encoders(model):
        encoder.blocks[-1].register_forward_hook(lambda module, args, output: calls.append((args[0], output)))
    model.train()
    model(random_video(model))
    assert len(calls) == len(list(encoders(model)))
    assert all(torch.equal(before, after) for before, after in calls)
    calls.clear()
    model.eval()
    model(random_video(model))
    assert all((before - after).abs().mean() > 0.1 for before, after in calls)


@each_variant
def test_branches_are_dropped_for_whole_examples_and_not_scaled(variant: str) -> None:
    model, examples = build(variant), 16
    calls: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.rate = 0.5
            module.register_forward_hook(lambda module, args, output: calls.append((args[0], output)))
    model.train()
    torch.manual_seed(0)
    model(random_video(model, batch=examples))

    branches = 3 if model.config.variant == "factorised_self_attention" else 2
    assert len(calls) == branches * sum(len(encoder.blocks) for encoder in encoders(model))
    patterns = []
    for branch, output in calls:
        branch, output = branch.view(examples, -1), output.view(examples, -1)  # rows of one clip are adjacent
        kept = (output == branch).all(dim=1)
        dropped = (output == 0).all(dim=1)
        assert torch.equal(kept, ~dropped)
        assert kept.any() and dropped.any()
        patterns.append(tuple(kept.tolist()))
    assert len(set(patterns)) == len(patterns)  # each branch draws for itself


def test_stochastic_depth_drops_at_its_rate() -> None:
    depth = StochasticDepth(0.3).train()
    torch.manual_seed(0)
    kept = depth(torch.ones(20_000, 1), 20_000).mean()
    assert float(kept) == pytest.approx(0.7, abs=0.015)


@each_variant
@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "stochastic_depth"])
def test_noise_in_training_alone(variant: str, field: str) -> None:
    model, quiet = build(variant, **{field: 0.5}), build(variant)
    video = random_video(model)
    with torch.no_grad():
        expected = quiet.eval()(video)
        model.eval()
        assert torch.equal(model(video), model(video))
        torch.testing.assert_close(model(video), expected)
        model.train()
        torch.manual_seed(0)
        first, second = model(video), model(video)
        assert (first - second).abs().mean() > 1e-3
        quiet.train()
        assert torch.equal(quiet(video), quiet(video))


@each_variant
def test_dropout_on_every_branch_and_on_the_tokens(variant: str) -> None:
    """As in the official code: after the positions, after attention, inside the MLP and after it."""
    model = build(variant, dropout=0.5).train()
    dropped: set[tuple[str, int]] = set()  # module, and the width of its tokens

    def record(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            zeros = float((output == 0).float().mean())
            if 0.3 < zeros < 0.7:
                dropped.add((name, output.shape[-1]))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(record(name))
    model(random_video(model, batch=8))
    width, hidden = model.config.hidden_size, model.config.mlp_dim
    expected: set[tuple[str, int]] = set()
    for name, module in model.named_modules():
        if isinstance(module, SelfAttention | Encoder):
            expected.add((f"{name}.dropout", width))
        if isinstance(module, MLP):
            expected |= {(f"{name}.dropout", hidden), (f"{name}.dropout", width)}
    assert dropped == expected


# The order of time.


def logits_of_tokens(model: ViViT, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.encoder(tokens)


@each_variant
def test_only_the_average_pooling_baseline_is_blind_to_the_order_of_time(variant: str) -> None:
    model = build(variant).eval().double()
    tokens = model.embedding(random_video(model).double()).detach()
    before, after = logits_of_tokens(model, tokens), logits_of_tokens(model, tokens[:, [2, 0, 1]])
    if variant == "baseline":
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)
    else:
        assert (before - after).abs().max() > 1e-3


@each_variant
def test_order_comes_from_positions_alone(variant: str) -> None:
    """If the positions are permuted together with the tokens, no model sees a difference."""
    model = build(variant).eval().double()
    tokens = model.embedding(random_video(model).double()).detach()
    expected = logits_of_tokens(model, tokens)
    times = [2, 0, 1]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("encoder.positions.embedding", "temporal.positions.embedding")):
                parameter.copy_(parameter[times].clone())
    torch.testing.assert_close(logits_of_tokens(model, tokens[:, times]), expected, rtol=1e-11, atol=1e-11)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("encoder.positions.embedding", "spatial.positions.embedding")):
                parameter.copy_(parameter.flip(-3))
    torch.testing.assert_close(logits_of_tokens(model, tokens[:, times].flip(2)), expected, rtol=1e-11, atol=1e-11)


# Heads, classes, and clips of the wrong size.


def test_named_heads_each_see_the_same_features() -> None:
    model = build("factorised encoder", heads={"verb": 3, "noun": 7}, num_classes=None).eval()
    video = random_video(model)
    with torch.no_grad():
        logits, features = model(video), model.features(video)
    assert {name: tuple(part.shape) for name, part in logits.items()} == {"verb": (2, 3), "noun": (2, 7)}
    for name, part in logits.items():
        weight, bias = model.get_parameter(f"heads.{name}.weight"), model.get_parameter(f"heads.{name}.bias")
        torch.testing.assert_close(part, F.linear(features, weight, bias))


def test_classes_must_fit_the_heads() -> None:
    config = tiny_config()
    assert ViViT(config, classes={"classes": list("abcde")}).classes == {"classes": tuple("abcde")}
    for classes in ({"classes": ["a"]}, {"verb": list("abcde")}):
        with pytest.raises(ValueError, match=r"classes: .*1|classes: .*verb.*'classes': 5"):
            ViViT(config, classes=classes)


@pytest.mark.parametrize(
    "shape", [(2, 4, 3, 16, 24), (2, 6, 3, 24, 16), (2, 6, 1, 16, 24), (2, 6, 16, 24, 3), (6, 3, 16, 24)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_clip_of_another_size_is_refused_with_both_sizes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = build("spatiotemporal")
    with pytest.raises(ValueError, match=r"\(B, 6, 3, 16, 24\)") as error:
        model(torch.zeros(shape, dtype=dtype))
    assert str(shape) in str(error.value)


# Attention moves no tokens.


class RecordOperators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("attention", [SelfAttention, TemporalSelfAttention])
def test_attention_copies_no_token(
    attention: type[SelfAttention], train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = attention(ModelConfig(hidden_size=32, num_heads=4)).train(train)
    qkv = torch.randn(2, 8, 9, 96, generator=torch.Generator().manual_seed(0)).requires_grad_(train)
    inputs: list[Tensor] = []
    original = F.scaled_dot_product_attention

    def record_inputs(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        inputs.extend((q, k, v))
        return original(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record_inputs)
    with RecordOperators() as operators:
        mixed = module.attend(qkv, 4)
    assert len(inputs) == 3
    assert all(part.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr() for part in inputs)
    copies = {"clone", "copy_", "contiguous", "_to_copy", "_unsafe_view", "cat", "stack"}
    assert not copies & set(operators.names), operators.names
    assert any("attention" in name for name in operators.names)
    assert mixed.shape == (2, 8, 9, 32)
    assert mixed.is_contiguous()


def test_half_the_heads_see_time_and_half_see_space() -> None:
    """A change at one token reaches only its own frame and its own spatial position."""
    torch.manual_seed(0)
    attention = FactorisedDotProductAttention(ModelConfig(hidden_size=16, num_heads=4)).double().eval()
    x = torch.randn(1, 3, 5, 16, dtype=torch.float64)
    changed = x.clone()
    changed[0, 1, 2] += 1
    with torch.no_grad():
        differs = (attention(x) - attention(changed)).abs().amax(dim=-1)[0] > 1e-9
    expected = torch.zeros(3, 5, dtype=torch.bool)
    expected[1, :] = True
    expected[:, 2] = True
    assert torch.equal(differs, expected)


# The adapter of the factorised encoder.


def plain_adapter(model: ViViT, x: Tensor) -> Tensor:
    """The formula, weight by weight."""
    weights = {name.removeprefix("encoder.adapter."): value for name, value in model.state_dict().items()}
    centred = x - x.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + model.config.norm_eps).sqrt()
    hidden = (normed * weights["norm.weight"] + weights["norm.bias"]) @ weights["down.weight"].T + weights["down.bias"]
    activated = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return x + activated @ weights["up.weight"].T + weights["up.bias"]


def test_the_adapter_is_its_formula_on_what_the_spatial_encoder_gives() -> None:
    model = build("factorised encoder", adapter_size=4).eval()
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        seen["given"], seen["made"] = given[0], made

    model.encoder.get_submodule("adapter").register_forward_hook(note)
    logits = model(random_video(model))
    torch.testing.assert_close(seen["made"], plain_adapter(model, seen["given"]), rtol=0, atol=1e-5)
    without = build("factorised encoder").eval()
    without.load_state_dict({k: v for k, v in model.state_dict().items() if "adapter" not in k})
    frames: list[Tensor] = []
    without.encoder.get_submodule("temporal").register_forward_pre_hook(lambda module, given: frames.append(given[0]))
    plain_logits = without(random_video(model))
    torch.testing.assert_close(seen["given"], frames[0])
    assert not torch.allclose(logits, plain_logits)


def test_a_fresh_adapter_changes_nothing_and_learns() -> None:
    plain = build("factorised encoder").eval()
    model = ViViT(tiny_config(num_layers=3, **VARIANTS["factorised encoder"], adapter_size=4)).eval()
    left = model.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("encoder.adapter.") for name in left.missing_keys) and not left.unexpected_keys
    assert torch.equal(model(random_video(model)), plain(random_video(plain)))
    model(random_video(model)).sum().backward()
    gradient = model.get_parameter("encoder.adapter.up.weight").grad
    assert gradient is not None and gradient.abs().max() > 0


def test_a_fresh_adapters_way_down_is_xavier_uniform() -> None:
    torch.manual_seed(0)
    model = ViViT(tiny_config(**VARIANTS["factorised encoder"], hidden_size=128, adapter_size=32)).state_dict()
    assert_uniform(model["encoder.adapter.down.weight"], math.sqrt(6 / (128 + 32)))
    assert torch.equal(model["encoder.adapter.norm.weight"], torch.ones(128))
    for name in ("norm.bias", "down.bias", "up.weight", "up.bias"):
        assert torch.count_nonzero(model[f"encoder.adapter.{name}"]) == 0, name


def test_features_and_heads_are_the_logits() -> None:
    model = build("factorised encoder", representation_size=7).eval()
    features = model.features(random_video(model))
    torch.testing.assert_close(model.classify(features), model(random_video(model)), rtol=0, atol=0)


def warned(call: Callable[[], object]) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def test_floats_that_are_no_pixels_are_told_once() -> None:
    model = build("factorised encoder").eval()
    video = random_video(model)
    spare = copy.deepcopy(model)
    assert warned(lambda: model(video)) == []
    # A good clip, such as one of zeros to warm up, does not end the watch on a CPU.
    (told,) = warned(lambda: model((video + 1) * 127.5))
    assert re.match(r"pixels range from 0\.\d+ to 25\d\.?\d*; the model takes floats in \[-1, 1\], or uint8", told)
    assert warned(lambda: model((video + 1) * 127.5)) == []
    for strange in (video * 2.6, video.clone().fill_(math.nan), video.half() * 200):
        assert len(warned(lambda strange=strange: copy.deepcopy(spare)(strange))) == 1  # type: ignore[misc]


def test_pixels_that_nobody_can_look_at_give_no_warning() -> None:
    """While a graph is made, on meta, and under torch.func; uint8 is always right."""
    model = build("spatiotemporal").eval()
    video = random_video(model) * 200
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    exported = torch.export.export(model, (video,)).module()
    for call in (
        lambda: compiled(video),
        lambda: exported(video),
        lambda: torch.jit.trace(model, video, check_trace=False),
        lambda: copy.deepcopy(model).to("meta")(video.to("meta")),
        lambda: torch.func.vmap(lambda one: model(one[None]))(video),
        lambda: model(torch.full_like(video, 255, dtype=torch.uint8)),
    ):
        assert not [line for line in warned(call) if line.startswith("pixels")]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_integers_other_than_bytes_are_refused(dtype: torch.dtype) -> None:
    model = build("spatiotemporal")
    with pytest.raises(ValueError, match=f"uint8, or floating point in .*, not {dtype}"):
        model(torch.ones_like(random_video(model), dtype=dtype))


def test_floats_of_another_precision_are_taken() -> None:
    model = build("factorised dot-product").eval()
    video = random_video(model)
    assert torch.equal(model(video.double()), model(video))
    torch.testing.assert_close(copy.deepcopy(model).bfloat16()(video).float(), model(video), rtol=0.1, atol=0.1)
