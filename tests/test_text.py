"""Names from outside cannot break a line, hide or control a terminal."""

import sys
import unicodedata

import pytest

from vivit.errors import UserError
from vivit.progress import console, progress_bar
from vivit.text import printable

ESCAPES = {
    "\x1b[2J\x1b]0;gone\x07": r"\x1b[2J\x1b]0;gone\x07",
    "two\r\nlines\x85\u2028": r"two\r\nlines\x85\u2028",
    "\x9b31m": r"\x9b31m",  # an escape of one byte
    "clip\u202e4pm.exe\u2066\u200f": r"clip\u202e4pm.exe\u2066\u200f",
    "caf\udce9": r"caf\udce9",
    "\U000e0041hidden\ufeff": r"\U000e0041hidden\ufeff",
}
KEPT = ("plain [bold] 12 % \\x1b", "日本語\u3000ビデオ", "می\u200cخواهم", "👩\u200d🚒", "e\u0301t\u00e9", "\u00a0", "")


def test_what_is_escaped_and_what_is_kept() -> None:
    assert {text: printable(text) for text in ESCAPES} == ESCAPES
    assert tuple(map(printable, KEPT)) == KEPT


def test_no_character_ends_a_line_or_controls_a_terminal() -> None:
    every = printable("".join(map(chr, range(sys.maxunicode + 1))))
    assert len(every.splitlines()) == 1
    assert {unicodedata.category(c) for c in every if c not in "\u200c\u200d"}.isdisjoint({"Cc", "Cf", "Cs"})
    assert every.encode()  # no lone surrogates


def test_messages_lines_and_titles_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ":car:\x1b[2J\u202e"
    assert str(UserError(name)) == r":car:\x1b[2J\u202e"
    console().print(name)
    assert capsys.readouterr().out == ":car:\\x1b[2J\\u202e\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for title in (name, "work"):
        with progress_bar(title, 3) as progress:
            progress(1, 3, name)
        shown = capsys.readouterr().out
        assert "\u202e" not in shown and r"\x1b[2J\u202e" in shown
