"""Pages: one HTML file each, with everything inside, from the templates in this folder."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import jinja2

from vivit.files import as_text, write_files
from vivit.report.curves import number
from vivit.report.drawing import shortened


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template of this folder, which extends base.html. Returns the path; raises UserError."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vivit.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "figures": figures, "duration": duration, "setting": setting}
    environment.filters |= {"shortened": shortened}
    # File names may contain bytes that are not text.
    page = environment.get_template(template).render(**values).encode("utf-8", "replace").decode()
    write_files({path: as_text(page)})
    return path


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def percent(value: Any) -> str:
    """ "62.5 %" for 0.625; "–" if there is no number."""
    return "–" if math.isnan(number(value)) else f"{100 * number(value):.1f}\N{NO-BREAK SPACE}%"


def figures(value: Any) -> str:
    """A number with four significant digits; whole numbers in full."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if math.isnan(number(value)) else f"{number(value):.4g}"


def duration(seconds: Any) -> str:
    """ "21 seconds", "24 minutes" or "1.5 hours"."""
    value = number(seconds)
    if math.isnan(value):
        return "–"
    if value < 90:
        return f"{value:.0f} second{'' if round(value) == 1 else 's'}"
    return f"{value / 60:.0f} minutes" if value < 5400 else f"{value / 3600:.1f} hours"


def setting(value: Any) -> str:
    """A recipe's value."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
