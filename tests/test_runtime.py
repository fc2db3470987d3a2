"""Ranks hear from each other; the precision follows from the hardware."""

from typing import Any

import pytest
import torch

from tests.support import refused
from vivit.runtime import Choice, Ranks, pick_precision


def test_one_process_is_alone() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.world_size) == (0, 1)
    assert ranks.gather([1, 2]) == [1, 2]
    assert ranks.any(True) and not ranks.any(False)


def test_a_flag_in_any_rank_is_heard() -> None:
    def gather(items: list[Any]) -> list[Any]:
        return [False, *items, False]

    assert Ranks(1, 3, gather).any(True)
    assert not Ranks(1, 3, gather).any(False)
    assert Ranks(0, 2, lambda items: [*items, True]).any(False)


@pytest.mark.parametrize(
    ("amx", "avx512", "chosen"),
    [
        (True, True, Choice("bf16", "this processor has AMX")),
        (False, True, Choice("bf16", "this processor has AVX512_BF16")),
        (False, False, Choice("f32", "this processor has no fast bf16")),
    ],
)
def test_a_processor_with_fast_bf16_takes_it(
    amx: bool, avx512: bool, chosen: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert pick_precision("auto", torch.device("cpu")) == chosen
    assert str(pick_precision("f32", torch.device("cpu"))) == "f32"


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "f32")])
def test_a_gpu_takes_bf16_unless_it_emulates_it(native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert pick_precision("auto", torch.device("cuda")).precision == chosen
    assert pick_precision("fp16", torch.device("cuda")) == Choice("fp16", "")


def test_fp16_needs_a_gpu() -> None:
    refused(lambda: pick_precision("fp16", torch.device("cpu")), "fp16 needs a GPU")
