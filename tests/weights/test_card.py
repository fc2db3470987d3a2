"""The model card as the Hub and its readers see it: metadata by huggingface_hub, text as Markdown."""

import math
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors import safe_open

from vivit.config import ModelConfig, Preprocessing
from vivit.labels import LabelSpace, Metric
from vivit.model.vivit import ViViT
from vivit.weights.card import card, score_card
from vivit.weights.store import save

TOP1, TOP5 = (Metric(("classes",), k) for k in (1, 5))
SCORES = {TOP1: 0.5, TOP5: 1.0}

SIZES: dict[str, Any] = {
    "variant": "factorised_encoder",
    "num_frames": 4,
    "image_size": (32, 48),
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 48,
    "temporal_layers": 1,
}
SECTIONS = ["Architecture", "Origin and data", "Scores", "Classes", "Licence"]


@dataclass
class Text:
    """A card's Markdown."""

    title: str = ""
    sections: dict[str, list[str]] = field(default_factory=dict)
    """Heading → the texts under it: paragraphs, items, cells, code."""
    blocks: list[str] = field(default_factory=list)
    """Kinds of the card's blocks from its title on: headings, paragraphs, tables and so on."""
    tables: list[list[list[str]]] = field(default_factory=list)
    """Table → row → cells."""


def read(path: Path) -> tuple[dict[str, Any], Text]:
    """A card's metadata and text."""
    loaded = ModelCard.load(path)
    text = Text()
    under: list[str] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(loaded.text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.level == 0 and not token.type.endswith("_close"):
            text.blocks.append(f"{token.type} {token.tag}")
        if token.type == "table_open":
            text.tables.append([])
        elif token.type == "tr_open":
            text.tables[-1].append([])
        elif token.type == "fence":
            under.append(token.content)
        elif token.type == "inline":
            assert before is not None
            if before.type == "heading_open" and before.tag == "h1":
                text.title = token.content
                continue
            if before.type == "heading_open":
                under = text.sections.setdefault(token.content, [])
                continue
            elif before.type in ("th_open", "td_open"):
                text.tables[-1][-1].append(token.content)
            under.append(token.content)
    return loaded.data.to_dict(), text


def build(names: list[str] | None = None, **fields: Any) -> ViViT:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "classes": None if names is None else {"classes": names},
        "preprocessing": Preprocessing(frame_stride=3, resize=56, short_clips="pad"),
        "origin": ("Scenic's joint/checkpoint", "positions resized from 2 × 2 × 2 to 2 × 2 × 3"),
    }
    counts = {} if "heads" in fields else {"num_classes": 3 if names is None else len(names)}
    return ViViT(ModelConfig(**{**SIZES, **counts, **fields}), **given)


def test_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    about: dict[str, Any] = {"licence": "apache-2.0", "data": "Kinetics", "scores": {TOP1: 0.81237, TOP5: 0.95}}
    save(build(["wave", "jump"]), tmp_path / "gestures", **about)
    metadata, text = read(tmp_path / "gestures" / "README.md")
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("vivit", "video-classification")
    assert {"vivit", "video-classification", "factorised_encoder"} <= set(metadata["tags"])
    assert metadata["license"] == "apache-2.0"
    assert text.title == "gestures"
    (model,) = metadata["model-index"]
    assert model["name"] == "gestures"
    (result,) = model["results"]
    assert result["task"]["type"] == "video-classification"
    assert result["dataset"]["name"] == "Kinetics"
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values == {"top-1 accuracy": pytest.approx(0.81237, abs=1e-4), "top-5 accuracy": 0.95}
    assert {metric["type"] for metric in result["metrics"]} == {"accuracy"}


def test_text_tells_the_model(tmp_path: Path) -> None:
    model = build(["wave", "jump"])
    save(model, tmp_path / "gestures", licence="mit", data="clips of a test", scores={TOP1: 0.81237})
    _, text = read(tmp_path / "gestures" / "README.md")
    assert list(text.sections) == SECTIONS
    architecture, scores = text.tables
    told = {row[0]: row[1] for row in architecture[1:]}
    for name, value in model.config.model_dump().items():
        assert told.get(name) == (None if value is None else str(value)), name
    assert ["top-1 accuracy", "81.2%"] in scores
    below_the_table = text.sections["Architecture"][-1]
    for part in ("[−1, 1]", "frame_stride 3", "resize 56", "short_clips pad"):
        assert part in below_the_table
    origin = text.sections["Origin and data"]
    assert list(model.origin) == origin[: len(model.origin)]
    assert any("clips of a test" in line for line in origin)
    assert text.sections["Classes"] == ["wave, jump"]
    assert text.sections["Licence"] == ["mit"]


def test_what_is_not_told_is_not_made_up(tmp_path: Path) -> None:
    model = build()
    model.origin = ()
    save(model, tmp_path / "model")
    metadata, text = read(tmp_path / "model" / "README.md")
    assert "license" not in metadata
    assert "model-index" not in metadata
    assert text.sections["Origin and data"] == ["trained from scratch"]
    assert text.sections["Scores"] == ["None measured."]
    assert text.sections["Classes"] == ["No names."]
    assert text.sections["Licence"] == ["Not given."]


def test_number_of_parameters(tmp_path: Path) -> None:
    # Counted by hand for ViViT-B/16x2 on 32 frames with 400 classes.
    width, mlp, tokens = 768, 3072, 16 * 14 * 14
    block = 4 * (width * width + width) + (width * mlp + mlp) + (mlp * width + width) + 2 * 2 * width
    embedding = (3 * 2 * 16 * 16 + 1) * width + (1 + 1 + tokens) * width
    count = embedding + 12 * block + 2 * width + (width + 1) * 400
    with torch.device("meta"):
        model = ViViT(ModelConfig())
    assert f" {count / 1e6:.1f} M parameters" in card(model, "model")

    # A tiny model must not be shown as "0.0 M".
    save(build(tubelet_size=(2, 8, 8)), tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        small = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert 1000 < small < 50_000
    assert " 0.0 M parameters" not in (tmp_path / "README.md").read_text()


def test_heads_are_told_apart(tmp_path: Path) -> None:
    model = build(heads={"verb": 2, "noun": 3})
    model.labels = LabelSpace({"verb": ("cut", "wash"), "noun": ("pan", "knife", "cup")})
    save(model, tmp_path)
    _, text = read(tmp_path / "README.md")
    lines = "\n".join(text.sections["Classes"]).splitlines()
    assert lines == ["verb: cut, wash", "noun: pan, knife, cup"]
    (architecture,) = text.tables
    assert ["heads", "{'verb': 2, 'noun': 3}"] in architecture


def test_many_classes_are_shortened(tmp_path: Path) -> None:
    save(build([f"class {i}" for i in range(400)]), tmp_path)
    _, text = read(tmp_path / "README.md")
    (line,) = text.sections["Classes"]
    shown = line.split(", ")
    assert shown[0] == "class 0"
    assert 5 <= len(shown) <= 50
    assert line.endswith(f" and {400 - len(shown)} more")

    save(build([f"class {i}" for i in range(len(shown))]), tmp_path)
    _, text = read(tmp_path / "README.md")
    assert "more" not in text.sections["Classes"][0]


# Except for the plain ones, each would start another block in Markdown.
HOSTILE = [
    *("# heading", "```", "`code`", "---", "- item", "> quote", "| cell | cell |"),
]
PLAIN = ["a|b", "key: value", "C#", "😀", "naïve", "50% off"]


@pytest.mark.parametrize("name", [*HOSTILE, *PLAIN])
def test_class_names_break_nothing(tmp_path: Path, name: str) -> None:
    save(build(["wave", "jump", "run"]), tmp_path / "plain", scores={TOP1: 0.5})
    _, plain = read(tmp_path / "plain" / "README.md")
    for names in ([name, "wave", "jump"], ["wave", name, "jump"], ["wave", "jump", name]):
        save(build(names), tmp_path / "model", licence="apache-2.0", scores={TOP1: 0.5})
        metadata, text = read(tmp_path / "model" / "README.md")
        assert metadata["license"] == "apache-2.0"
        assert list(text.sections) == SECTIONS
        assert text.blocks == plain.blocks
        assert text.tables == plain.tables
        assert text.sections["Licence"] == ["apache-2.0"]
        if name in PLAIN:
            assert text.sections["Classes"] == [", ".join(names)]


def test_hostile_words_of_the_author_break_nothing(tmp_path: Path) -> None:
    data = "My: data | set #1 \"quoted\" 'twice' {a} [b] & * ! %"
    folder = tmp_path / "a: b # c - [d] 😀"
    save(build(["wave", "jump"]), folder, data=data, licence="other: #1", scores={TOP1: 0.5})
    metadata, text = read(folder / "README.md")
    assert metadata["license"] == "other: #1"
    assert metadata["model-index"][0]["name"] == folder.name
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"] == data
    assert list(text.sections) == SECTIONS
    assert text.title == folder.name


def test_name_of_the_scored_data_does_not_break_the_table(tmp_path: Path) -> None:
    model = build(["wave", "jump"])
    save(model, tmp_path, licence="mit")
    score_card(tmp_path, model, SCORES, "my|data, val, 4x3 views")
    metadata, text = read(tmp_path / "README.md")
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"] == "my|data, val, 4x3 views"
    _, scores = text.tables
    assert scores[1:] == [["top-1 accuracy", "50.0%"], ["top-5 accuracy", "100.0%"]]
    assert metadata["license"] == "mit"


def test_scores_do_not_replace_a_card_written_by_hand_or_make_one(tmp_path: Path) -> None:
    model = build(["wave", "jump"])
    score_card(tmp_path, model, SCORES, "data")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "README.md").write_text("mine")
    score_card(tmp_path, model, SCORES, "data")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_card_written_by_hand_stays(tmp_path: Path) -> None:
    save(build(["wave", "jump"]), tmp_path, licence="mit")
    by_hand = b"---\nlicense: mit\n---\r\n# My model\nas I tell it \xff\n"
    (tmp_path / "README.md").write_bytes(by_hand)
    save(build(["run", "sit"]), tmp_path, licence="apache-2.0", scores={TOP1: 0.5})
    assert (tmp_path / "README.md").read_bytes() == by_hand
    (tmp_path / "README.md").write_bytes(b"")
    save(build(["run", "sit"]), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == b""


def test_a_card_of_ours_taken_over_by_hand_stays(tmp_path: Path) -> None:
    save(build(["wave", "jump"]), tmp_path)
    text = (tmp_path / "README.md").read_text()
    (mark,) = [line for line in text.splitlines() if line.startswith("<!--")]
    # The card itself says what to do.
    assert "Take this line out" in mark
    taken_over = text.replace(mark, "").replace("# ", "# My ")
    (tmp_path / "README.md").write_text(taken_over)
    save(build(["run", "sit"]), tmp_path)
    assert (tmp_path / "README.md").read_text() == taken_over


def test_a_card_of_ours_is_replaced(tmp_path: Path) -> None:
    save(build(["wave", "jump"]), tmp_path, scores={TOP1: 0.25})
    save(build(["run", "sit"]), tmp_path, scores={TOP1: 0.75})
    metadata, text = read(tmp_path / "README.md")
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    assert text.sections["Classes"] == ["run, sit"]
    assert "25.0%" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "metadata", ["license: [mit", "- a list", "license:\n- mit\n- apache-2.0", "license: 5", "", "license: null"]
)
def test_metadata_spoilt_by_hand_does_not_stop_saving(tmp_path: Path, metadata: str) -> None:
    save(build(["wave", "jump"]), tmp_path)
    text = (tmp_path / "README.md").read_text()
    _, _, rest = text.split("---\n", 2)
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n{rest}")
    score_card(tmp_path, build(["run", "sit"]), SCORES, "data")
    _, written = read(tmp_path / "README.md")
    assert written.sections["Classes"] == ["run, sit"]


def test_a_licence_that_reads_like_a_value_of_yaml_stays_text(tmp_path: Path) -> None:
    for licence in ("no", "1.0", "null"):
        save(build(["wave", "jump"]), tmp_path, licence=licence)
        metadata, text = read(tmp_path / "README.md")
        assert metadata["license"] == licence
        assert text.sections["Licence"] == [licence]


def test_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("writing a card went to the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(ModelCard, "validate", connect)
    save(build(["wave", "jump"]), tmp_path, licence="apache-2.0", scores={TOP1: 0.5})
    # Also if the card is ours, which is read again.
    save(build(["wave", "jump"]), tmp_path, licence="apache-2.0", scores={TOP1: 0.5})
    assert (tmp_path / "README.md").is_file()
