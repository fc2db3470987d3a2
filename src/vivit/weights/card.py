"""The model card: README.md beside the weights, as the Hub shows it."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from vivit.files import as_text, write_files
from vivit.labels import Metric
from vivit.model.vivit import ViViT
from vivit.weights.weight_file import by

CARD_FILE = "README.md"
OURS = "<!-- Written by vivit with the weights. Take this line out and the text is yours: it is not replaced then. -->"
SHOWN_CLASSES = 20
ESCAPED_BAR = r"\|"  # within a table


def is_written_by_hand(folder: Path) -> bool:
    """Whether the folder has a card that must not be replaced."""
    path = folder / CARD_FILE
    return path.is_file() and OURS not in path.read_text(encoding="utf-8", errors="replace")


def score_card(folder: Path, model: ViViT, scores: Mapping[Metric, float], scored_on: str) -> None:
    """Put scores into the card in a model's folder, if vivit wrote it; the licence that it names stays."""
    path = folder / CARD_FILE
    if path.is_file() and not is_written_by_hand(folder):
        licence = _licence(path.read_text(encoding="utf-8", errors="replace"))
        name = folder.resolve().name
        write_files({path: as_text(card(model, name, licence=licence, scores=scores, scored_on=scored_on))})


def card(
    model: ViViT,
    name: str,
    *,
    licence: str | None = None,
    data: str | None = None,
    scores: Mapping[Metric, float] | None = None,
    scored_on: str | None = None,
) -> str:
    """The text of a card.

    Args:
        licence: as the Hub names licences.
        data: what the model was trained on, if its origin does not say so.
        scores: metric → value between 0 and 1; uninformative metrics are left out.
        scored_on: the data and views of the scores.
    """
    config = model.config
    told = {metric: value for metric, value in (scores or {}).items() if metric.informative}
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type="custom",
            dataset_name=scored_on or data or "unnamed",
            metric_type="mean_average_precision" if metric.top is None else "accuracy",
            metric_name=_in_words(metric),
            metric_value=round(value, 4),
        )
        for metric, value in told.items()
    ]
    metadata = ModelCardData(
        library_name="vivit",
        pipeline_tag="video-classification",
        tags=["vivit", "video-classification", config.variant],
        license=licence and licence.lower(),  # as the Hub spells them
        model_name=name if results else None,
        eval_results=results or None,
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    pixels = ", ".join(f"{field} {value}" for field, value in model.preprocessing.model_dump(exclude_none=True).items())
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
        f"{_millions(parameters)} parameters, for clips of {config.num_frames} frames of {by(config.image_size)}.",
        "",
        "```sh",
        f"vivit predict clip.mp4 --model {name}",
        "```",
        "",
        "```python",
        "import vivit",
        "",
        f'model = vivit.load("{name}")  # or this folder, or its id on the Hub',
        "```",
        "",
        "## Architecture",
        "",
        "| field | value |",
        "|---|---|",
        *(f"| {field} | {value} |" for field, value in fields.items()),
        "",
        f"Pixels in [−1, 1]; {pixels}.",
        "",
        "## Origin and data",
        "",
        *([f"- {line}" for line in model.origin] or ["- trained from scratch"]),
        *([f"- data: {data}"] if data else []),
        "",
        "## Scores",
        "",
    ]
    if told:
        lines += [f"| {(scored_on or 'metric').replace('|', ESCAPED_BAR)} | value |", "|---|---|"]
        lines += [f"| {_in_words(metric)} | {value:.1%} |" for metric, value in told.items()]
    else:
        lines.append("None measured.")
    lines += ["", "## Classes", ""]
    for head, names in (model.classes or {}).items():
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        part = f"{head}: " if config.heads else ""
        lines.append(f"{part}{_plain(', '.join(names[:SHOWN_CLASSES]))}{more}")
    if not config.class_counts:
        lines.append("None: the model has no head, and is a start for training.")
    elif model.classes is None:
        lines.append("No names.")
    lines += ["", "## Licence", "", licence or "Not given."]
    return "\n".join(lines) + "\n"


def _in_words(metric: Metric) -> str:
    """ "top-1 accuracy", "verb top-1 accuracy", "mean average precision"."""
    return f"{metric.head} mean average precision".lstrip() if metric.top is None else f"{metric.title} accuracy"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _plain(words: str) -> str:
    """The words as a plain paragraph of Markdown, whatever they begin with."""
    words = " ".join(words.split())
    return f"\\{words}" if words[:1] in "#`>-+*|=~<&" else words


def _licence(written: str) -> str | None:
    """The licence that a card names, if its metadata can still be read."""
    try:
        found = ModelCard(written, ignore_metadata_errors=True).data.to_dict().get("license")
    except (ValueError, YAMLError):
        return None
    return found if isinstance(found, str) else None
