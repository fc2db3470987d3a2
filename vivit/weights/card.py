"""The model card: README.md beside the weights, as the Hub shows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vivit.weights.writing import write_text

if TYPE_CHECKING:
    from vivit.model.vivit import ViViT

CARD_FILE = "README.md"
OURS = "<!-- Written by vivit with the weights. Take this line out and the text is yours: it is not replaced then. -->"
SHOWN_CLASSES = 20
METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}


def write_card(
    folder: Path,
    model: "ViViT",
    *,
    licence: str | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
    scored_on: str | None = None,
) -> None:
    """Write the card of the model in a folder, unless somebody wrote one by hand; a licence named before stays."""
    path = folder / CARD_FILE
    if path.is_file():
        written = path.read_text(encoding="utf-8", errors="replace")
        if OURS not in written:
            return
        licence = licence or ModelCard(written, ignore_metadata_errors=True).data.to_dict().get("license")
    name = folder.resolve().name
    write_text(path, card(model, name, licence=licence, data=data, scores=scores, scored_on=scored_on))


def card(
    model: "ViViT",
    name: str,
    *,
    licence: str | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
    scored_on: str | None = None,
) -> str:
    """The text of a card.

    Args:
        licence: as the Hub names licences; it says nothing of one that it is not told.
        data: what the model was trained on, where its origin does not say so.
        scores: metric → value between 0 and 1.
        scored_on: the data and views of the scores.
    """
    config = model.config
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type="custom",
            dataset_name=scored_on or data or "unnamed",
            metric_type="accuracy",
            metric_name=METRICS.get(metric, metric),
            metric_value=round(value, 4),
        )
        for metric, value in (scores or {}).items()
    ]
    metadata = ModelCardData(
        library_name="vivit",
        pipeline_tag="video-classification",
        tags=["vivit", "video-classification", config.variant],
        license=licence,
        model_name=name if results else None,
        eval_results=results or None,
    )
    height, width = config.image_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fields = {field: value for field, value in config.model_dump().items() if value is not None}
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        OURS,
        "",
        f"# {name}",
        "",
        f"A ViViT ([paper](https://arxiv.org/abs/2103.15691)), {config.variant.replace('_', ' ')}, of "
        f"{parameters / 1e6:.1f} M parameters, for clips of {config.num_frames} frames of {height} × {width}.",
        "",
        "```sh",
        f"vivit predict clip.mp4 --model {name}",
        "```",
        "",
        "```python",
        "import vivit",
        "",
        f'model = vivit.load("{name}")  # in place of the name: this folder, or its id on the Hub',
        "```",
        "",
        "## Architecture",
        "",
        "| field | value |",
        "|---|---|",
        *(f"| {field} | {value} |" for field, value in fields.items()),
        "",
        "Pixels in [−1, 1]; "
        + ", ".join(f"{field} {value}" for field, value in model.preprocessing.model_dump().items())
        + ".",
        "",
        "## Origin and data",
        "",
        *([f"- {line}" for line in model.origin] or ["- trained from scratch"]),
        *([f"- data: {data}"] if data else []),
        "",
        "## Scores",
        "",
    ]
    if scores:
        lines += [f"| {scored_on or 'metric'} | value |", "|---|---|"]
        lines += [f"| {METRICS.get(metric, metric)} | {value:.1%} |" for metric, value in scores.items()]
    else:
        lines.append("None measured.")
    lines += ["", "## Classes", ""]
    for head, names in (model.classes or {}).items():
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        part = "" if head == "classes" else f"{head}: "
        lines.append(f"{part}{', '.join(names[:SHOWN_CLASSES])}{more}")
    if model.classes is None:
        lines.append("Without names.")
    lines += ["", "## Licence", "", licence or "Not told."]
    return "\n".join(lines) + "\n"
