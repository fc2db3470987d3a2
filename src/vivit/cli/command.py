"""What all commands share: how they turn words into values, and how their help pages look."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import cyclopts
from cyclopts import App, Token
from cyclopts.argument import Argument
from rich.text import Text

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

LABELS = 26  # columns of a help page for the names of options
WIDEST = 110  # columns of a help page
NONE = "None"  # the word for "no value"
METAVARS = {"INT": "N", "FLOAT": "NUMBER", "CHOICE": "NAME"}


def verb(name: str, *examples: str) -> App:
    """The app of a verb; `examples` are the commands at the end of its help page."""
    return App(name=name, help_epilogue="\n  ".join(["Examples:" if len(examples) > 1 else "Example:", *examples]))


def to_value(type_: Any, tokens: Sequence[Token]) -> Any:
    """Convert words as cyclopts does, but accept None for an optional value, and refuse to round 1.5 to 2."""
    optional = get_origin(type_) in (Union, UnionType) and type(None) in get_args(type_)
    if optional and [token.value for token in tokens] == [NONE]:
        return None
    return cyclopts.convert(type_, tokens, converter=_convert_word)


def _convert_word(type_: Any, word: str) -> Any:
    if type_ is int and not re.fullmatch(r"[+-]?\d+", word):
        raise ValueError
    return cyclopts.convert(type_, [word])


def leave_out_none(app: App, commands: tuple[str, ...], arguments: Iterable[Argument]) -> None:
    """Treat `--option None` as if the option were left out, if None is its default."""
    for argument in arguments:
        if argument.field_info.default is None and [token.value for token in argument.tokens] == [NONE]:
            argument.tokens.clear()


class HelpPage:
    """Prints a help page; below each title are two columns, option names and what they do."""

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        text = str(usage).strip().removeprefix("Usage: ")
        console.print(Text.assemble(("Usage: ", "bold"), text))

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:
        for paragraph in _plain(description).split("\n\n"):
            console.print(Text("\n" + "\n".join(_wrapped(paragraph, min(console.width, WIDEST)))))

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        if panel.entries:
            console.print(Text(f"\n{panel.title}:", style="bold"))
        for entry in panel.entries:
            label, lines = _label(entry), _wrapped(self.about(entry), min(console.width, WIDEST) - LABELS - 4)
            if len(label) > LABELS:
                lines = ["", *lines]
            first, *others = lines
            console.print(Text.assemble("  ", (label, "cyan"), " " * (LABELS + 2 - len(label)) if first else "", first))
            for line in filter(None, others):
                console.print(Text(" " * (LABELS + 4) + line))

    def about(self, entry: "HelpEntry") -> str:
        """What an option does, the values it can have, and its default."""
        notes = []
        choices = [choice for choice in entry.choices or () if choice != NONE]
        if choices:
            notes.append(", ".join(choices))
        default = self.default(entry)
        if default not in (None, "False", "()"):
            notes.append(f"default: {'on' if default == 'True' else default.removesuffix('.0')}")
        if entry.required:
            notes.append("required")
        about = _plain(entry.description)
        return f"{about} [{'; '.join(notes)}]".strip() if notes else about

    def default(self, entry: "HelpEntry") -> str | None:
        """The default to show, or None."""
        return entry.default


def _label(entry: "HelpEntry") -> str:
    if entry.positional_label:
        return entry.positional_label
    name, *shorts = (*entry.positive_names, *entry.positive_shorts)
    if entry.negative_names:
        name = name.replace("--", "--[no-]", 1)
    return ", ".join([name, *shorts]) + (f" {METAVARS.get(entry.metavar, entry.metavar)}" if entry.metavar else "")


def _plain(text: Any) -> str:
    """The plain text of what cyclopts has wrapped for rich."""
    return str(getattr(text, "primary_renderable", text or "")).strip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False) or [""]
