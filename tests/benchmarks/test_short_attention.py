"""Triton's interpreter, which needs no GPU, computes by the kernel what the plain version does.

It must be asked for before Triton is imported, so all cases run in a process of their own, which is this file again.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
SHAPES = (16, 64), (17, 80), (5, 32)  # tokens, width of a head
ROWS = 16, 32, 64


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, which PyTorch for CUDA brings, is missing"
)
def test_the_kernel_equals_the_plain_version_in_tiles_of_each_size_at_any_strides() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.test_short_attention"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "32 cases\n"


def compare_all() -> None:
    from benchmarks.short_attention import plain_attention, short_attention

    torch.manual_seed(0)
    cases = 0
    for dtype, (tokens, width), rows in itertools.product(TOLERANCES, SHAPES, ROWS):
        for qkv in layouts(tokens, width, dtype) if rows >= tokens else ():
            q, k, v = qkv.unbind(0)
            mixed = short_attention(q, k, v, rows)
            difference = (mixed.float() - plain_attention(q, k, v)).abs().max().item()
            assert difference < TOLERANCES[dtype], (dtype, tokens, width, rows, qkv.stride(), difference)
            assert mixed.dtype == dtype and mixed.transpose(1, 2).is_contiguous()
            cases += 1
    print(cases, "cases")


def layouts(tokens: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values of (3, B, H, N, d): as the package has them, and each in memory of its own.

    Around the first there are numbers that must not be read.
    """
    batch, heads = 2, 7
    fused = torch.full((batch + 2, tokens, heads, 3, width), torch.nan, dtype=dtype)
    inner = fused[1:-1].normal_()
    return [inner.permute(3, 0, 2, 1, 4), torch.randn(3, batch, heads, tokens, width).to(dtype)]


def let_the_interpreter_multiply_bf16() -> None:
    """It multiplies the bits, as if they were integers."""
    from triton import language
    from triton.runtime.interpreter import InterpreterBuilder

    multiply = InterpreterBuilder.create_dot

    def create_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [builder.cast_impl(x, language.float32) if x.dtype.scalar == language.bfloat16 else x for x in (a, b)]
        return multiply(builder, *wide, *rest)

    InterpreterBuilder.create_dot = create_dot


if __name__ == "__main__":
    let_the_interpreter_multiply_bf16()
    compare_all()
