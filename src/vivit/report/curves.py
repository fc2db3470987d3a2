"""The curves of a run, from its steps.jsonl and metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vivit.labels import Metric
from vivit.report.drawing import LINES, Chart, Curve, draw_curves

Row = Mapping[str, Any]


def run_curves(
    steps: Sequence[Row], epochs: Sequence[Row], metrics: Sequence[Metric], clip_norm: float | None = None
) -> list[Chart]:
    """A chart for each quantity that has a number.

    Args:
        steps: step, loss, learning_rate, gradient_norm, clips_per_second, waiting.
        epochs: epoch, loss, clips_per_second and the metrics; their loss and speed are drawn if `steps` has none.
        clip_norm: the largest gradient norm that was not scaled down.
    """
    steps = [row for row in steps if math.isfinite(number(row.get("step")))]
    epochs = [row for row in epochs if math.isfinite(number(row.get("epoch")))]

    def over_steps(title: str, field: str, smooth: bool = True, **options: Any) -> Chart | None:
        curve = column(steps, "step", field)
        known = curve.values[np.isfinite(curve.values)]
        if not len(known):
            return None
        if options.get("percent"):
            values = {"last": known[-1], "mean": known.mean()}
            note = [f"{name} {100 * value:.3g}\N{NO-BREAK SPACE}%" for name, value in values.items()]
        else:
            note = [f"last {known[-1]:.3g}"]
        if len(known) < len(curve.values):
            note.append(f"{len(curve.values) - len(known)} steps without a number")
        return draw_curves(title, [curve], "step", note=note, smooth=smooth, **options)

    def over_epochs(title: str, field: str) -> Chart | None:
        return draw_curves(title, [column(epochs, "epoch", field)], "epoch")

    charts = [
        over_steps("Training loss", "loss") or over_epochs("Training loss", "loss"),
        draw_curves("Validation", _scores(epochs, metrics), "epoch", note=["% of the videos"], percent=True),
        over_steps("Learning rate", "learning_rate", smooth=False),
        over_steps("Gradient norm", "gradient_norm", logarithmic=True, threshold=clip_norm),
        over_steps("Clips per second", "clips_per_second") or over_epochs("Clips per second", "clips_per_second"),
        over_steps("Time spent waiting for clips", "waiting", percent=True),
    ]
    return [chart for chart in charts if chart is not None]


def column(rows: Sequence[Row], position: str, field: str, **style: Any) -> Curve:
    """One field of the rows against another."""
    positions, values = (np.array([number(row.get(name)) for row in rows]) for name in (position, field))
    return Curve(style.pop("name", field), positions, values, **style)


def number(value: Any) -> float:
    """A number from a file; NaN if it is missing or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def _scores(epochs: Sequence[Row], metrics: Sequence[Metric]) -> list[Curve]:
    """A colour for each head; a top-5 is dashed."""
    heads = list(dict.fromkeys(metric.head for metric in metrics))
    return [
        column(
            epochs,
            "epoch",
            metric.key,
            name=metric.title,
            colour=LINES[heads.index(metric.head) % len(LINES)],
            dashed=metric.top not in (1, None),
        )
        for metric in metrics
    ]
