"""Text from outside, such as file and class names, made safe to print; times and counts in words."""

import unicodedata

# Control characters, invisible marks (some reverse the direction of text), lone surrogates, line and paragraph breaks.
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Marks that Persian, Indic scripts and some emoji need.
JOINERS = {"\u200c", "\u200d"}


def printable(text: object) -> str:
    r"""The text on one line; characters that break lines, are invisible or control a terminal are escaped, as \x1b."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in UNSAFE and c not in JOINERS else c for c in text)


def clock(seconds: float) -> str:
    """ "1:02:03.4", or "2:03.4" within the first hour."""
    tenths = round(10 * seconds)
    hours, minutes = divmod(tenths // 600, 60)
    rest = f"{minutes:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"
    return f"{hours}:{rest}" if hours else rest.removeprefix("0")


def counted(count: int, name: str) -> str:
    """ "1 file", "2,000 files"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
