"""The benchmark of training takes the step that it names, sees memory, and its arithmetic is that of its table."""

import copy
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import harness, training
from benchmarks.training import Kind, Memory, Task, Trainer
from vivit.inference.speed import Seconds

TOY = Task(clips=3, quick=True)


@pytest.mark.parametrize("model", [training.PEER, "factorised_encoder"])
def test_a_step_follows_the_clipped_gradient(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LEARNING_RATE", 0.5)
    trainer = Trainer(model, TOY)
    plain = copy.deepcopy(trainer.network)
    trainer.step(compiled=False, checkpointing=False)
    F.cross_entropy(plain(trainer.clips), trainer.labels).backward()
    norm = torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm()
    assert norm > 1
    for moved, parameter in zip(trainer.network.parameters(), plain.parameters(), strict=True):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(moved, parameter - 0.5 * gradient / norm)
        assert moved.grad is None


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("model", [name for name in training.MODELS if name != training.PEER])
def test_checkpointing_trains_the_same_and_computes_blocks_twice(model: str, optimiser: Any) -> None:
    weights, calls = [], []
    for checkpointing in (False, True):
        trainer = Trainer(model, Task(clips=2, optimiser=optimiser, quick=True))
        count = _calls(trainer.encoders[0].blocks[0])
        for _ in range(2):
            trainer.step(compiled=False, checkpointing=checkpointing)
        weights.append(trainer.network.state_dict())
        calls.append(count())
    assert calls == [2, 4]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)


def _calls(module: nn.Module) -> Callable[[], int]:
    calls: list[None] = []
    module.register_forward_pre_hook(lambda module, args: calls.append(None))
    return lambda: len(calls)


def test_blocks_are_compiled_only_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compilations = []

    def compile_with_a_witness(block: nn.Module, fullgraph: bool) -> None:
        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            compilations.append(graph)
            return graph.forward

        block._compiled_call_impl = torch.compile(block._call_impl, backend=backend, fullgraph=fullgraph)

    monkeypatch.setattr(nn.Module, "compile", compile_with_a_witness)
    trainer = Trainer("spatiotemporal", TOY)
    trainer.step(compiled=False, checkpointing=False)
    assert not compilations
    trainer.step(compiled=True, checkpointing=False)
    assert compilations


def test_flops_are_those_worked_out_by_hand() -> None:
    # 8 tubelets and a class token: N 9, D 32, MLP 64, two layers. Multiply-adds of a clip:
    embedding, linear, attention, head = 8 * 32 * 3 * 2 * 16 * 16, 9 * 32 * (4 * 32 + 2 * 64), 2 * 9 * 9 * 32, 32 * 400
    expected = 3 * 2 * 3 * (embedding + 2 * (linear + attention) + head)
    assert training.flops_of_step("spatiotemporal", TOY) == expected
    assert training.flops_of_step(training.PEER, TOY) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_what_a_step_keeps() -> None:
    clips = 4000
    # Bytes of the clips, the same as floats, and in two layers 16 numbers of each of 9 tokens' 32 channels.
    kept = clips * (4 * 3 * 32 * 32 * (1 + 4) + 2 * 16 * 9 * 32 * 4)
    kind = Kind("spatiotemporal")
    memory = training.measure_memory([kind], Task(clips=clips, quick=True))[kind]
    assert kept < memory.after_imports < 2 * kept
    assert memory.after_imports < memory.peak


def test_rows_tell_rates_and_ratios_worked_out_by_hand() -> None:
    peer, ours = Kind(training.PEER), Kind("factorised_encoder", compiled=True, checkpointing=True)
    # Ratios of the rounds are 2, 1 and 8: their median is not the ratio of the medians.
    taken = {
        kind: [Seconds(clock, 0.0) for clock in each]
        for kind, each in {peer: [8.0, 2.0, 8.0], ours: [4.0, 2.0, 1.0]}.items()
    }
    memory = {peer: Memory(4_000_000_000, 3_500_000_000), ours: Memory(3_000_000_000, 2_500_000_000)}
    flops = {peer.model: 4_000_000_000_000, ours.model: 2_000_000_000_000}
    theirs, own = training.rows_of(Task(clips=2), taken, memory, flops, product=4e12)
    assert (theirs["model"], theirs["variant"], theirs["how"]) == ("transformers", "spatiotemporal", "eager")
    assert theirs["of the product peak"] == 0.125 and "transformers' time ÷" not in theirs
    assert (own["model"], own["variant"], own["how"]) == ("vivit", "factorised_encoder", "compiled")
    assert own["transformers' time ÷"]["median"] == 2 and own["of the product peak"] == 0.25
    assert own["peak"] == 3_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_tiny_form_has_a_row_for_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # To start a process for each takes longer than all the rest.
    monkeypatch.setattr(harness, "fresh_process", lambda: ThreadPoolExecutor(1))
    out = tmp_path / "training.json"
    training.main(
        rounds=1, models="transformers,factorised_dot_product", compiled=False, threads=1, quick=True, out=out
    )
    rows = json.loads(out.read_text())["values"]["rows"]
    assert [(row["model"], row["how"], row["checkpointing"]) for row in rows] == [
        ("transformers", "eager", False),
        ("vivit", "eager", False),
        ("vivit", "eager", True),
    ]
