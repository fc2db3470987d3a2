"""Pages as a phone shows them, in a real browser."""

import html
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

WIDTH = 390  # CSS pixels; in a frame, because the browser's own window cannot be as narrow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")

PROBE = """
<script>
addEventListener("load", () => {
  const all = selector => [...document.querySelectorAll(selector)];
  const shown = selector => all(selector).filter(element => !element.closest("details"));
  const box = element => element.getBoundingClientRect();
  const scrolls = e => e && (getComputedStyle(e).overflowX != "visible" || scrolls(e.parentElement));
  const number = bar => { const range = document.createRange(); range.selectNode(bar.previousSibling); return range };
  // A line is higher than its letters.
  const apart = (one, other) => one.right <= other.left || one.bottom <= other.top + 5;
  parent.postMessage(JSON.stringify({
    width: document.documentElement.scrollWidth,
    outside: all("body *").filter(e => box(e).right > innerWidth + 1 && !scrolls(e.parentElement))
      .map(e => e.outerHTML.slice(0, 200)),
    cut: shown(".matrix, .wide").filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 200)),
    letters: Math.min(...all(".curves svg text, .matrix svg text").filter(e => e.textContent.trim())
      .map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().d)),
    bars: shown(".bar").filter(bar => box(bar).width > 20 && apart(box(number(bar)), box(bar))).length}), "*");
});
</script>
"""
FRAME = """
<iframe src="page.html" style="border: 0; width: WIDTHpx; height: 800px"></iframe><pre id="seen"></pre>
<script>onmessage = event => seen.textContent = event.data</script>
"""


@dataclass(frozen=True)
class Seen:
    width: int
    """Of the page; more than WIDTH if it scrolls sideways."""
    outside: list[str]
    """Elements that stick out on the right."""
    cut: list[str]
    """Matrices and tables that scroll sideways, but for those folded away."""
    letters: float
    """Size of the smallest letters in a drawing, in pixels."""
    bars: int
    """Bars that are beside or below their number, but for those folded away."""


def look(page: Path) -> Seen:
    source = page.read_text("utf-8").replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    page.with_name("page.html").write_text(source.replace("</body>", f"{PROBE}</body>"), "utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(WIDTH)))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    command = [CHROMIUM, *options, "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    words = result.stdout.partition('<pre id="seen">')[2].partition("</pre>")[0]
    if not words:
        pytest.skip(f"Chromium shows no page here: {result.stderr[-300:]}")
    return Seen(**json.loads(html.unescape(words)))
