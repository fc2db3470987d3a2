"""Training on some of the tokens equals the same model on just these tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.support import random_weights, tiny_config
from vivit.model.embedding import TokenDropping
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT

TIMES, PLACES = 3, 12
VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "spatiotemporal, mean": {"variant": "spatiotemporal", "pooling": "mean"},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 1},
    "factorised encoder, mean": {"variant": "factorised_encoder", "temporal_layers": 1, "pooling": "mean"},
    "baseline": {"variant": "factorised_encoder", "temporal_layers": 0},
    "factorised self-attention": {"variant": "factorised_self_attention"},
    "factorised dot-product": {"variant": "factorised_dot_product"},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def build(variant: str, share: float) -> ViViT:
    """A model in float64 and in training mode, with the same random weights for every fraction."""
    config = tiny_config(**VARIANTS[variant], image_size=(24, 32), token_dropping=share)
    return random_weights(ViViT(config).double()).train()


def random_video(batch: int) -> Tensor:
    return torch.rand((batch, 6, 3, 24, 32), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def run(model: ViViT, video: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the numbers of the tokens that each row kept."""
    kept: list[Tensor] = []

    def record(module: TokenDropping, args: tuple[Tensor], output: Tensor) -> None:
        # Model 2 has a second such module, for temporal tokens; it drops none.
        if module.rate:
            before, after = (x if x.ndim == 3 else x.transpose(1, 2).flatten(2) for x in (args[0], output))
            same = (before[:, None] == after[:, :, None]).all(dim=3)  # (rows, kept, tokens)
            assert torch.equal(same.sum(dim=2), torch.ones_like(same[:, :, 0], dtype=torch.long))
            kept.append(same.int().argmax(dim=2))

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, TokenDropping)]
    logits = model(video)
    for hook in hooks:
        hook.remove()
    return logits, kept[0]


def encode(tokens: Tensor, encoder: Encoder) -> Tensor:
    """(N, D) → (D,), with a class token if there is one."""
    positions = encoder.positions
    if positions.class_token is None or positions.class_position is None:
        return encoder.encode(tokens[None], 1)[0].mean(dim=0)
    tokens = torch.cat([(positions.class_token + positions.class_position)[None], tokens])
    return encoder.encode(tokens[None], 1)[0, 0]


def logits_of_kept(model: ViViT, clip: Tensor, kept: Tensor) -> Tensor:
    """Logits (K,) of one clip from only these tokens; `kept` has one row, or one per temporal index."""
    network: Any = model.encoder
    tokens = model.embedding(clip[None])[0].flatten(1, 2)  # (T, S, D)
    if model.config.variant == "spatiotemporal":
        tokens = tokens.flatten(0, 1) + network.positions.embedding.flatten(0, 2)
        features = encode(tokens[kept[0]], network)
    elif model.config.variant == "factorised_encoder":
        tokens = tokens + network.spatial.positions.embedding.flatten(0, 1)
        features = torch.stack([encode(tokens[time][kept[time]], network.spatial) for time in range(TIMES)])
        if network.temporal is None:
            features = features.mean(dim=0)
        else:
            features = encode(features + network.temporal.positions.embedding, network.temporal)
    else:
        tokens = tokens + network.positions.embedding.flatten(1, 2)
        features = network.encode(tokens[:, kept[0]][None], 1)[0].mean(dim=(0, 1))
    return model.heads["classes"](features)


@each_variant
def test_the_model_sees_the_kept_tokens_as_if_there_were_no_others(variant: str) -> None:
    model, video = build(variant, share=0.4), random_video(3)
    torch.manual_seed(3)
    logits, kept = run(model, video)
    plain = build(variant, share=0.0).eval()
    rows = kept.view(3, -1, kept.shape[-1])
    expected = torch.stack([logits_of_kept(plain, clip, mine) for clip, mine in zip(video, rows, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert (expected - plain(video)).abs().amax(dim=1).min() > 1e-3  # for every clip


@each_variant
@pytest.mark.parametrize(("share", "of_36", "of_12"), [(0.4, 22, 7), (0.5, 18, 6), (0.99, 1, 1)])
def test_each_row_keeps_as_many_of_its_own_in_order(variant: str, share: float, of_36: int, of_12: int) -> None:
    model, video = build(variant, share), random_video(4)
    torch.manual_seed(3)
    _, kept = run(model, video)
    _, others = run(model, video)
    torch.manual_seed(3)
    _, again = run(model, video)
    rows = 4 * TIMES if model.config.variant == "factorised_encoder" else 4
    assert kept.shape == (rows, of_36 if model.config.variant == "spatiotemporal" else of_12)
    assert (kept.diff(dim=1) > 0).all()
    assert len(set(map(tuple, kept.tolist()))) > rows // 2
    assert torch.equal(again, kept)
    assert not torch.equal(others, kept)


@each_variant
def test_gradients_reach_the_pixels_and_positions_of_kept_tokens_alone(variant: str) -> None:
    model = build(variant, share=0.5)
    video = random_video(1).requires_grad_()
    logits, kept = run(model, video)
    logits.square().sum().backward()
    reached = torch.zeros(TIMES, PLACES, dtype=torch.bool)
    if model.config.variant == "spatiotemporal":
        reached.view(-1)[kept[0]] = True
    else:
        for time in range(TIMES):
            reached[time, kept[time if len(kept) > 1 else 0]] = True
    assert video.grad is not None
    tubes = video.grad.view(TIMES, 2, 3, 3, 8, 4, 8)  # (T, t, C, n_h, h, n_w, w)
    assert torch.equal(tubes.abs().amax(dim=(1, 2, 4, 6)).flatten(1) > 0, reached)

    network: Any = model.encoder
    if model.config.variant == "factorised_encoder":
        positions, reached = network.spatial.positions.embedding.grad.flatten(0, 1), reached.any(dim=0)
    else:
        positions = network.positions.embedding.grad.flatten(1, 2)
    assert torch.equal(positions.abs().amax(dim=-1) > 0, reached)


@each_variant
def test_nothing_is_dropped_in_evaluation_and_nothing_drawn_where_nothing_is_dropped(variant: str) -> None:
    dropping, plain, video = build(variant, share=0.6), build(variant, share=0.0), random_video(2)
    before = torch.get_rng_state()
    expected = plain(video)
    assert torch.equal(dropping.eval()(video), expected)
    assert torch.equal(plain.eval()(video), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert dropping.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("times", [(), (3,)])
def test_every_token_and_every_pair_is_kept_as_often(times: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rows, count, kept = 20_000, 8, 5
    numbers = torch.arange(count, dtype=torch.float32).view(-1, 1).expand(rows, *times, -1, 1)
    chosen = TokenDropping(1 - kept / count).train()(numbers).squeeze(-1)
    assert all(torch.equal(chosen[:, 0], other) for other in chosen.unbind(1) if times)
    seen = torch.zeros(rows, count).scatter_(1, (chosen[:, 0] if times else chosen).long(), 1.0)
    pairs = (seen.T @ seen / rows).double()
    expected = torch.full((count, count), kept / count * (kept - 1) / (count - 1), dtype=torch.float64)
    expected.fill_diagonal_(kept / count)
    torch.testing.assert_close(pairs, expected, rtol=0, atol=0.015)  # four deviations


@pytest.mark.parametrize("variant", ["spatiotemporal", "factorised self-attention"])
def test_compiled_blocks_take_the_kept_tokens_in_training_and_all_in_evaluation(variant: str) -> None:
    torch.compiler.reset()
    plain, compiled, video = build(variant, share=0.5), build(variant, share=0.5), random_video(2)
    for module in compiled.modules():
        if isinstance(module, Encoder):
            for block in module.blocks:
                block.compile(fullgraph=True, backend="aot_eager")
    for training in (True, False, True, False):
        logits = []
        for model in (plain, compiled):
            torch.manual_seed(5)
            logits.append(model.train(training)(video))
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)


def gradients(model: nn.Module, rank: int) -> dict[str, Tensor]:
    """Gradients in one of two processes, with its own clips and its own choice of tokens."""
    torch.manual_seed(rank)
    model(random_video(4)[2 * rank : 2 * rank + 2]).square().mean().backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    of_each_variant = {variant: gradients(DistributedDataParallel(build(variant, 0.5)), rank) for variant in VARIANTS}
    if rank == 0:
        torch.save(of_each_variant, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_processes_drop_tokens_of_their_own_and_average_the_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt")
    for variant in VARIANTS:
        first, second = (gradients(build(variant, 0.5), rank) for rank in range(2))
        assert found[variant].keys() == first.keys()
        for name, gradient in found[variant].items():
            torch.testing.assert_close(gradient, (first[name] + second[name]) / 2, rtol=1e-9, atol=1e-9)
