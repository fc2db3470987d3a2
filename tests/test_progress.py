"""What a command prints outside a terminal."""

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
