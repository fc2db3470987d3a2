"""Rules of this project that no linter has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "vivit"
MOST = 8
# Said in the docstring of a function that has a parameter for each option of a verb.
REASON = re.compile(r"options?\s+of\s+`vivit \w+`")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    """The functions and methods outside cli/, each with the place where it stands."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE)
        if name.parts[0] != "cli":
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, Function):
                    yield f"{name}:{node.lineno} {node.name}", node


def parameters(function: Function) -> list[str]:
    """Without `self` and `cls`."""
    arguments = function.args
    named = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    named += [one.arg for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [name for name in named if name not in ("self", "cls")]


def test_no_function_takes_more_than_eight_parameters_without_a_reason() -> None:
    long = [
        f"{place}: {len(parameters(function))} parameters"
        for place, function in functions()
        if len(parameters(function)) > MOST and not REASON.search(ast.get_docstring(function) or "")
    ]
    assert not long, "\n".join(long)


def test_parameters_are_counted_without_self() -> None:
    source = "def f(self, a, /, b, *rest, c=1, **others): ..."
    (function,) = ast.parse(source).body
    assert isinstance(function, Function)
    assert parameters(function) == ["a", "b", "c", "rest", "others"]
