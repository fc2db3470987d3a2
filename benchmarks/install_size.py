"""What `pip install` installs: the packages and the disk space of vivit without and with its extras.

.venv/bin/python -m benchmarks.install_size
"""

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements(*extras: str) -> list[str]:
    """What pyproject.toml asks for; an extra may ask for other extras of vivit."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    found, waiting = list(project["dependencies"]), list(extras)
    while waiting:
        for requirement in project["optional-dependencies"][waiting.pop()]:
            asked = Requirement(requirement)
            waiting += asked.extras if asked.name == project["name"] else []
            found += [requirement] if asked.name != project["name"] else []
    return found


def packages(wanted: Iterable[str]) -> dict[str, Distribution]:
    """The installed packages for these requirements, with all their dependencies, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(each), "") for each in wanted]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for asked in ("", *requirement.extras):
            if (name, asked) in seen:
                continue
            seen.add((name, asked))
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                continue
            waiting += [(Requirement(each), asked) for each in found[name].requires or ()]
    return found


def megabytes(installed: Iterable[Distribution]) -> float:
    """The size of their files, including compiled ones."""
    files = (Path(str(each.locate_file(file))) for each in installed for file in each.files or ())
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def main() -> None:
    torch, base = packages(["torch"]), packages(requirements())
    print(
        f"torch {torch['torch'].version} and what it needs: {megabytes(torch.values()):,.0f} MB, {len(torch)} packages"
    )
    before = set(torch)
    for name, installed in {
        "vivit, without these": base,
        "[train] adds": packages(requirements("train")),
        "[demo] adds": packages(requirements("demo")),
        "[demo,test] adds": packages(requirements("demo", "test")),
    }.items():
        added = sorted(installed.keys() - before)
        before |= set(added)
        print(
            f"{name}: {megabytes(installed[each] for each in added):,.0f} MB, {len(added)} packages: {', '.join(added)}"
        )


if __name__ == "__main__":
    main()
