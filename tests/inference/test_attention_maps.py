"""Attention maps equal those of whole matrices of all pairs of tokens, with gradients by autograd."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import VivitConfig, VivitForVideoClassification

import vivit
from tests.model.test_plain import Weights, mlp, norm, part, queries_keys_values
from tests.support import random_clips, random_weights, refused, tiny_config, tiny_model
from vivit.inference import attention_maps as module
from vivit.inference.attention_maps import Method, attention_maps
from vivit.inference.merging import Merge, merge_tokens
from vivit.model.vivit import ViViT

METHODS: tuple[Method, ...] = ("raw", "rollout", "gradient")
CASES: dict[str, dict[str, Any]] = {
    "spatiotemporal": {},
    "spatiotemporal, mean": {"pooling": "mean"},
    "spatiotemporal, attentive": {"attentive_pooling": True},
    "factorised_encoder": {"temporal_layers": 2},
    "factorised_encoder, mean": {"pooling": "mean", "temporal_layers": 1},
    "factorised_encoder, adapter": {"adapter_size": 5, "representation_size": 7},
    "factorised_encoder, baseline": {"temporal_layers": 0},
    "factorised_encoder, baseline, mean": {"temporal_layers": 0, "pooling": "mean"},
    "factorised_encoder, attentive": {"attentive_pooling": True},
    "factorised_encoder, baseline, attentive": {"temporal_layers": 0, "attentive_pooling": True},
    "factorised_self_attention": {"attention_order": "space_time"},
    "factorised_self_attention, time first": {"attention_order": "time_space"},
    "factorised_dot_product": {},
    "factorised_dot_product, attentive": {"attentive_pooling": True},
}
CLASS = 3


def build(case: str) -> ViViT:
    return tiny_model(variant=case.split(",")[0], std=0.3, **CASES[case]).double()


class Whole:
    """One clip through a model whose attention matrices are whole, (H, N, N), and kept."""

    def __init__(self, model: ViViT, clip: Tensor) -> None:
        self.w: Weights = {name: value.detach() for name, value in model.state_dict().items()}
        self.config, self.layers = model.config, []  # type: ignore[var-annotated]
        self.starts: list[Tensor] = []
        self.logits = self.run(model.embedding(clip[None]).detach()[0].requires_grad_())

    def attend(self, x: Tensor, w: Weights, masks: list[Tensor]) -> Tensor:
        """(N, D) → (N, D); masks: those of equal shares of the heads, (N, N)."""
        heads = self.config.num_heads
        q, k, v = queries_keys_values(x, w, heads)
        mask = torch.stack(masks).repeat_interleave(heads // len(masks), dim=0)
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        matrix = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        matrix.retain_grad()
        self.layers[-1].append(matrix)
        return torch.einsum("hqk,khd->qhd", matrix, v).flatten(1) @ w["proj.weight"].T + w["proj.bias"]

    def encode(self, x: Tensor, w: Weights, layers: int, masks: dict[str, list[Tensor]]) -> Tensor:
        """masks: name of an attention → what it sees, in the order of the calls."""
        for number in range(layers):
            block = part(w, f"blocks.{number}")
            self.layers.append([])
            for name, mask in masks.items():
                normed = norm(x, part(block, name.replace("attn", "norm") if "_" in name else "norm1"))
                x = x + self.attend(normed, part(block, name), mask)
            x = x + mlp(norm(x, part(block, "norm_mlp" if len(masks) > 1 else "norm2")), part(block, "mlp"))
        x = norm(x, part(w, "norm"))
        x.retain_grad()
        return x

    def run(self, x: Tensor) -> Tensor:
        config, w = self.config, part(self.w, "encoder")
        times, places = x.shape[0], x.shape[1] * x.shape[2]
        t = torch.arange(times).repeat_interleave(places)
        s = torch.arange(places).repeat(times)
        self.two = config.variant == "factorised_encoder"
        if config.variant == "spatiotemporal":
            x = self.with_class((x + w["positions.embedding"]).flatten(0, 2), part(w, "positions"))
            self.tokens = self.encode(x, w, config.num_layers, {"attn": [torch.ones(len(x), len(x)).bool()]})
            self.kept = torch.arange(len(x))[len(x) - times * places :]
        elif self.two:
            positions = part(w, "spatial.positions")
            x = (x + positions["embedding"]).flatten(1, 2)
            x = torch.cat([self.with_class(one, positions) for one in x])
            each = len(x) // times
            t = torch.arange(times).repeat_interleave(each)
            mask = t[:, None] == t
            self.tokens = self.encode(x, part(w, "spatial"), config.num_layers, {"attn": [mask]})
            self.kept = torch.arange(len(x)).view(times, each)[:, each - places :].flatten()
        else:
            x = (x + w["positions.embedding"]).flatten(0, 2)
            over_time, over_space = s[:, None] == s, t[:, None] == t
            masks = {"attn": [over_time, over_space]}
            if config.variant == "factorised_self_attention":
                masks = {"attn_space": [over_space], "attn_time": [over_time]}
                if config.attention_order == "time_space":
                    masks = dict(reversed(masks.items()))
            self.tokens = self.encode(x, w, config.num_layers, masks)
            self.kept = torch.arange(len(x))
        self.spatial_layers, self.upper = self.layers, None
        x = self.tokens
        if self.two and config.temporal_layers:
            rows = x.view(times, -1, x.shape[1])
            x = rows[:, 0] if config.pooling == "token" else rows.mean(dim=1)
            if config.adapter_size:
                a = part(w, "adapter")
                down = norm(x, part(a, "norm")) @ a["down.weight"].T + a["down.bias"]
                down = 0.5 * down * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (down + 0.044715 * down**3)))
                x = x + down @ a["up.weight"].T + a["up.bias"]
            positions = part(w, "temporal.positions")
            x = self.with_class(x + positions["embedding"], positions)
            self.layers = []
            mask = torch.ones(len(x), len(x)).bool()
            x = self.upper = self.encode(x, part(w, "temporal"), config.temporal_layers, {"attn": [mask]})
            self.temporal_layers = self.layers
        if config.attentive_pooling:
            x = self.pool_attentively(x, times)
        elif self.two and not config.temporal_layers:
            rows = x.view(times, -1, x.shape[1])
            x = (rows[:, 0] if config.pooling == "token" else rows.mean(dim=1)).mean(dim=0)
        else:
            x = x[0] if config.pooling == "token" else x.mean(dim=0)
        if "representation.weight" in self.w:
            x = torch.tanh(x @ self.w["representation.weight"].T + self.w["representation.bias"])
        return x @ self.w["heads.classes.weight"].T + self.w["heads.classes.bias"]

    @staticmethod
    def with_class(x: Tensor, positions: Weights) -> Tensor:
        if "class_token" not in positions:
            return x
        return torch.cat([(positions["class_token"] + positions["class_position"])[None], x])

    def pool_attentively(self, x: Tensor, times: int) -> Tensor:
        w, width, heads = part(self.w, "pooler"), x.shape[1], self.config.num_heads
        timeless = len(x) % times if self.config.pooling == "token" and self.config.temporal_layers != 0 else 0
        of_time = w["positions"].repeat_interleave((len(x) - timeless) // times, dim=0)
        plain = {"weight": torch.ones(width).double(), "bias": torch.zeros(width).double()}
        x = norm(x, plain)
        x = torch.cat([x[:timeless], x[timeless:] + of_time])
        keys, values = (x @ w["kv.weight"].T + w["kv.bias"]).view(len(x), 2, heads, -1).unbind(1)
        scores = torch.einsum("hd,khd->hk", w["query"].view(heads, -1), keys) / keys.shape[-1] ** 0.5
        self.shares = scores.softmax(dim=-1)
        self.shares.retain_grad()
        # The bias of the values counts for no token, as in the model, which adds it after the mean.
        bias = w["kv.bias"][width:]
        mixed = torch.einsum("hk,khd->hd", self.shares, values - bias.view(heads, -1)).flatten() + bias
        y = w["query"] + mixed @ w["proj.weight"].T + w["proj.bias"]
        return y + mlp(norm(y, part(w, "norm2")), part(w, "mlp"))

    def rolled(self, r: Tensor, layers: list[list[Tensor]], method: Method, rows: int) -> Tensor:
        """From the last layer to the first; a gradient's part gets the sum of each of so many rows of tokens."""
        for matrices in reversed(layers[-1:] if method == "raw" else layers):
            for matrix in reversed(matrices):
                weights = matrix.detach()
                if method == "gradient":
                    assert matrix.grad is not None
                    weights = (matrix.grad * weights).clamp(min=0)
                mixed = torch.einsum("q,hqk->k", r, weights) / len(weights)
                if method == "gradient":
                    sums = mixed.view(rows, -1).sum(dim=1, keepdim=True).clamp(min=1e-30)
                    scale = r.view(rows, -1).sum(dim=1, keepdim=True) / sums
                    mixed = (mixed.view(rows, -1) * scale).flatten()
                stays = {"raw": 0.0, "rollout": 0.5, "gradient": 0.1}[method]
                r = stays * r + (1 - stays) * mixed
        return r

    def pooled(self, tokens: Tensor, rows: int, method: Method) -> Tensor:
        """How the tokens are pooled, in so many rows that are averaged or go on one by one."""
        count = len(tokens) // rows
        if self.config.pooling == "token":
            return (torch.arange(len(tokens)) % count == 0).double()
        if method == "gradient":
            assert tokens.grad is not None
            return (tokens.grad * tokens.detach()).sum(dim=1).clamp(min=0)
        return torch.full((len(tokens),), 1 / count).double()

    def map(self, method: Method) -> Tensor:
        (self.logits[CLASS] - self.logits.mean()).backward()
        attentive = None
        if self.config.attentive_pooling:
            attentive = self.shares.detach()
            if method == "gradient":
                attentive = (attentive * self.shares.grad).clamp(min=0)
            attentive = attentive.mean(dim=0)
        times, rows = self.config.grid[0], self.config.grid[0] if self.two else 1
        start = self.pooled(self.tokens, rows, method) if attentive is None or self.upper is not None else attentive
        if self.upper is not None:
            above = self.pooled(self.upper, 1, method) if attentive is None else attentive
            above = self.rolled(above, self.temporal_layers, method, 1)[-times:]
        elif self.two and attentive is None and self.config.pooling == "token" and method == "gradient":
            assert self.tokens.grad is not None
            start = start * (self.tokens.grad * self.tokens.detach()).sum(dim=1).clamp(min=0)
        found = self.rolled(start, self.spatial_layers, method, rows)
        if self.upper is not None:
            within = found.view(times, -1)
            found = (within / within.sum(dim=1, keepdim=True).clamp(min=1e-30) * above[:, None]).flatten()
        found = found[self.kept]
        return (found / found.sum()).view(self.config.grid)


@pytest.mark.parametrize("case", CASES)
def test_maps_equal_those_of_whole_matrices(case: str) -> None:
    model = build(case)
    clips = random_clips(model.config).double()
    for method in METHODS:
        found, logits = attention_maps(model, clips, method, {"classes": [CLASS, CLASS]})
        for number, clip in enumerate(clips):
            whole = Whole(model, clip)
            torch.testing.assert_close(logits["classes"][number], whole.logits.detach(), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found[number].double(), whole.map(method), rtol=1e-3, atol=1e-5)
        assert found.std() > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_the_model_alone_and_nothing_stays(case: str, method: Method) -> None:
    model = build(case).float()
    clips = random_clips(model.config)
    with torch.set_grad_enabled(method == "gradient"):
        alone = model(clips)
    found, logits = attention_maps(model, clips, method)
    assert torch.equal(logits["classes"], alone)
    assert found.shape == (2, *model.config.grid)
    assert (found >= 0).all()
    torch.testing.assert_close(found.flatten(1).sum(dim=1), torch.ones(2))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_blocks_of_queries_make_no_difference(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("spatiotemporal", "factorised_self_attention", "factorised_dot_product"):
        model = build(case)
        clips = random_clips(model.config).double()
        whole, _ = attention_maps(model, clips, method)
        monkeypatch.setattr(module, "MOST_WEIGHTS", 1)
        torch.testing.assert_close(attention_maps(model, clips, method)[0], whole)
        monkeypatch.undo()


def test_frozen_weights_and_bytes_have_the_same_map() -> None:
    model = build("spatiotemporal").float()
    shape = (1, model.config.num_frames, 3, *model.config.image_size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, _ = attention_maps(model, clips / 127.5 - 1)
    torch.testing.assert_close(attention_maps(model.requires_grad_(False), clips)[0], expected)


def test_the_rollout_of_transformers_own_weights_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = VivitConfig(image_size=24, num_frames=6, tubelet_size=[2, 8, 8], num_labels=5, **sizes)
    config._attn_implementation = "eager"
    theirs = random_weights(VivitForVideoClassification(config).eval(), std=0.2)
    clips = random_clips(tiny_config(image_size=24))
    with torch.no_grad():
        attentions = theirs(clips, output_attentions=True).attentions
    assert attentions is not None
    raw = attentions[-1].mean(dim=1)[:, 0, 1:]
    row = torch.eye(attentions[0].shape[-1])[:1].expand(2, 1, -1)
    for matrix in reversed(attentions):
        row = (row + row @ matrix.mean(dim=1)) / 2
    theirs.save_pretrained(tmp_path)
    model = vivit.from_huggingface(tmp_path)
    expectations: dict[Method, Tensor] = {"raw": raw, "rollout": row[:, 0, 1:]}
    for method, expected in expectations.items():
        found, _ = attention_maps(model, clips, method)
        torch.testing.assert_close(found.flatten(1), expected / expected.sum(dim=1, keepdim=True), rtol=1e-3, atol=1e-5)


def test_several_heads_and_several_labels() -> None:
    model = tiny_model(heads={"verb": 3, "noun": 4})
    clips = random_clips(model.config)
    of_verb, logits = attention_maps(model, clips, "gradient", {"verb": [1, 2]})
    assert {head: values.shape for head, values in logits.items()} == {"verb": (2, 3), "noun": (2, 4)}
    best = {head: values.argmax(dim=1).tolist() for head, values in logits.items()}
    torch.testing.assert_close(attention_maps(model, clips)[0], attention_maps(model, clips, "gradient", best)[0])
    assert not torch.equal(of_verb, attention_maps(model, clips)[0])


def test_models_without_a_map_are_refused() -> None:
    model = tiny_model()
    merge_tokens(model, Merge(0.5))
    refused(lambda: attention_maps(model, random_clips(model.config)), "merge: ")
    fresh = ViViT(tiny_config()).eval()  # its head is zero
    refused(lambda: attention_maps(fresh, random_clips(fresh.config)), "gradient: nothing")
