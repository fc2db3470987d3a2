"""The benchmark of a GPU runs on a CPU, a failure costs its own rows only, and blocks share what is compiled."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from benchmarks import gpu
from benchmarks.gpu import BestKernels, Run, by_backend
from tests.support import random_clips, tiny_model
from vivit.config import Variant
from vivit.inference.speed import attention_of
from vivit.model.encoder import encoders_of


def test_the_tiny_form_measures_what_a_cpu_can_and_says_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "measure_fp8", lambda run: 1 / 0)
    monkeypatch.setitem(gpu.SECTIONS, "fp8", lambda run: gpu.measure_fp8(run))
    out = tmp_path / "gpu.json"
    gpu.main("peaks,attention,inference,training,graphs,fp8", 10, 1, "cpu", True, out)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["values"]["rows"]

    def of(section: str, **labels: Any) -> list[dict[str, Any]]:
        return [row for row in rows if row["section"] == section and labels.items() <= row.items()]

    # Triton is missing, or finds no GPU.
    by_triton = [row for row in rows if "triton" in str(row.get("how", "")) + row.get("kernel", "")]
    assert {row["section"] for row in by_triton} == {"attention", "inference", "CUDA graph"}
    assert all("error" in row for row in by_triton)
    others = [row for row in of("peaks") + of("inference") + of("training step") if row not in by_triton]
    assert all("seconds" in row for row in others)
    assert {row["model"] for row in of("inference")} == {"vivit", "transformers"}
    assert len(of("inference", model="vivit")) == 2 * (4 * 2 + 2)  # batches, variants and ways
    assert all("seconds" in row for row in of("attention", kernel="flash"))
    assert all("No viable backend" in row["error"] for row in of("attention", kernel="cudnn"))
    assert all(("error" in row) == (row["how"] != "eager") for row in of("CUDA graph"))
    assert of("fp8") == [{"section": "fp8", "error": "ZeroDivisionError: division by zero"}]
    assert "| model 1, all tokens | cudnn | bf16 | 9 | not measured: RuntimeError" in capsys.readouterr().out


def test_no_row_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    run = Run(torch.device("cpu"), True, 1, time.monotonic() - 1, tmp_path / "gpu.json")
    gpu.measure_peaks(run)
    assert [row["error"] for row in run.rows] == ["TimeoutError: the time was over"] * 3


def test_each_number_of_tokens_gets_its_kernel() -> None:
    long, short = torch.randn(1, 2, 7, 8), torch.randn(1, 2, 5, 8)

    def step() -> None:
        with BestKernels({7: by_backend(SDPBackend.MATH), 5: by_backend(SDPBackend.FLASH_ATTENTION)}):
            for tokens in (long, short):
                F.scaled_dot_product_attention(tokens, tokens, tokens)

    assert attention_of(step) == "plain softmax (7 tokens), flash (5 tokens)"


@pytest.mark.parametrize(("variant", "encoders"), [("spatiotemporal", 1), ("factorised_encoder", 2)])
def test_the_blocks_of_an_encoder_share_what_is_compiled_also_after_a_reset(
    variant: Variant, encoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compilations.append(graph)
        return graph.forward

    really = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **how: really(block, backend=backend, **how))
    # More blocks than PyTorch compiles one function for.
    model = tiny_model(variant=variant, num_layers=9)
    assert len(encoders_of(model)) == encoders
    gpu.compile_blocks(model)
    clips = random_clips(model.config)
    with torch.no_grad():
        model(clips)
        torch._dynamo.reset()
        model(clips)
    assert len(compilations) == 2 * encoders
