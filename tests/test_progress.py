"""What a command prints, on a terminal and elsewhere."""

import sys
from io import StringIO

import pytest

from vivit.progress import console, progress_bar


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    line = "[bold]12[/bold] 日本 'a' " + "long " * 100
    console().print(line)
    console(visible=False).print("never seen")
    assert capsys.readouterr().out == line + "\n"


def test_a_bar_is_silent_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work") as progress:
        progress(1, 3)
        progress(2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_counts_on_a_terminal_and_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("work", 3) as progress:
        progress(2)
    shown = capsys.readouterr().out
    assert "work" in shown and "2/3" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased
    with progress_bar("work", 3, visible=False) as progress:
        progress(2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("visible", [True, False])
def test_a_bar_that_is_not_shown_hides_nothing_on_a_terminal(monkeypatch: pytest.MonkeyPatch, visible: bool) -> None:
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    screen = console(visible=False)
    monkeypatch.setattr(screen, "_force_terminal", True)
    with progress_bar("predict", 3, visible, screen):
        print("58.5%  running")
    assert terminal.getvalue() == "58.5%  running\n"
