import base64
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.report.page import Page
from tests.report.phone import WIDTH, look, needs_chromium
from tests.support import encode
from vivit.data.datasets import VideoSet
from vivit.data.loader import label_tensors
from vivit.data.manifest import data_hash
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.per_video import write_per_video
from vivit.report.clips import CLIP_BYTES, MOST_CLIPS
from vivit.report.curves import run_curves
from vivit.report.run_page import SHOWN, write_report
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES


def _lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _steps(number: int) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "epoch": 1 + step // 4,
            "loss": 3 / step,
            "learning_rate": 0.01 / step,
            "gradient_norm": 1 + step / 10,
            "clips_per_second": 20.0 + step,
            "waiting": 0.25,
        }
        for step in range(1, number + 1)
    ]


SESSION = {
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 5400.0,
    "first_step": 0,
    "last_step": 8,
    "device": "AMD EPYC",
    "processes": 2,
    "threads": 3,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "peak_memory": 1_234_000_000,
}


def _begin(
    run: Path, classes: Mapping[str, Sequence[str]], data: Path, hashed: str, recipe: Recipe | None = None
) -> Path:
    run.mkdir()
    note = {"data": str(data), "init": None, **(recipe or RECIPES["demo"]).model_dump(mode="json")}
    (run / "recipe.json").write_text(json.dumps({**note, "videos": None, "train_hash": "7" * 64, "val_hash": hashed}))
    architecture = {"variant": "factorised_encoder", "num_frames": 8, "image_size": [48, 48]}
    (run / "config.json").write_text(json.dumps({"architecture": architecture, "classes": dict(classes)}))
    return run


def _predictions(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with (run / "val_predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _said(label: str, predicted: str, probability: float = 0.9, prefix: str = "") -> dict[str, Any]:
    right = label == predicted
    answer = {
        "label": label,
        "predicted": predicted,
        "probability": probability,
        "label_probability": probability if right else 1 - probability,
        "label_rank": 1 if right else 2,
    }
    return {prefix + name: value for name, value in answer.items()}


def _video(number: int, error: str = "") -> dict[str, Any]:
    return {"video": f"/gone/{number}.mp4", "start": "", "end": "", "error": error}


UNREAD = {"predicted": "", "probability": "", "label_probability": "", "label_rank": ""}


@pytest.fixture(scope="module")
def held_out(bright_dark: Path) -> VideoSet:
    return open_data(bright_dark).split("val")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, bright_dark: Path, held_out: VideoSet) -> Path:
    """Two epochs on `bright_dark`, with one mistake in its two validation videos. Read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    folder = _begin(folder, held_out.labels.classes, bright_dark, data_hash(held_out))
    scores = {"videos": 2, "unreadable": 0, "data_hash": data_hash(held_out)}
    _lines(
        folder / "metrics.jsonl",
        [
            {"epoch": 1, "step": 4, "loss": 1.23456, "top1": 0.625, "top5": 1.0, **scores},
            {"epoch": 2, "step": 8, "loss": 0.98765, "top1": 0.5, "top5": 1.0, **scores},
        ],
    )
    _lines(folder / "steps.jsonl", _steps(8))
    _lines(folder / "sessions.jsonl", [SESSION, {**SESSION, "seconds": 1800.0}])
    logits = {"classes": torch.tensor([[3.0, 0.0], [2.0, 0.0]])}
    labels = {"classes": torch.stack([label_tensors(held_out, index)["classes"] for index in range(2)])}
    assert sorted(labels["classes"].tolist()) == [0, 1]
    evaluation = Evaluation(held_out.labels, logits, labels, {})
    write_per_video(evaluation, held_out, folder / "val_predictions.csv")
    save_file({"a": torch.zeros(1000, 300), "b": torch.zeros(7)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def page(whole_run: Path) -> Page:
    return Page(write_report(whole_run))


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be changed; without steps, because curves take time."""
    shutil.copytree(whole_run, tmp_path / "run")
    (tmp_path / "run" / "steps.jsonl").unlink()
    return tmp_path / "run"


def test_a_run_of_one_head_shows_the_numbers_of_its_files(page: Page, held_out: VideoSet) -> None:
    assert page.scores == {"top1": "50.0\xa0%"}  # a top-5 of two classes tells nothing
    assert "best 62.5\xa0%, epoch 1" in page.words
    assert page.table("epoch", "loss") == [
        ["1", "1.235", "62.5 %", "2", "0"],
        ["2", "0.9877", "50.0 %", "2", "0"],
    ]
    assert data_hash(held_out)[:16] in page.words
    assert "0.3 M parameters" in page.words
    assert "epoch 2 of 6, step 8" in page.words
    # 90 and 30 minutes on two processes.
    assert "2.0 hours in 2 processes on AMD EPYC, 4.0 process-hours" in page.words
    assert page.table("started")[0] == [
        "2026-01-02T03:04:05+00:00",
        "1.5 hours",
        "0–8",
        "AMD EPYC",
        "2",
        "3",
        "1.23 GB",
        "python 3.11.7, torch 2.13.0",
    ]
    assert page.table("class", "videos") == [
        ["dark", "1", "0.0 %", "1× bright"],
        ["bright", "1", "100.0 %", ""],
    ]
    assert page.table("true", "predicted") == [["dark", "bright", "1 of 1"]]
    assert page.drawn("confusion matrix of 2 classes") == [
        "bright",
        "dark",
        "predicted",
        "bright",
        "dark",
        "true",
        "1",
        "1",
    ]
    # softmax of (2, 0) or (3, 0)
    wrong = {0: 3.0, 1: 2.0}[[video.labels["classes"] for video in held_out.videos].index(("dark",))]
    assert f"{100 / (1 + math.exp(-wrong)):.1f}\xa0%" in page.words
    assert "rank\xa02" in page.words


def test_curves_end_with_the_last_step(page: Page) -> None:
    words = page.words
    assert "last 0.375" in words  # the loss, 3/8
    assert "last 0.00125" in words  # the learning rate
    assert "last 1.8" in words  # the gradient's norm
    assert "last 28" in words  # clips per second
    assert "last 25\xa0%; mean 25\xa0%" in words  # waiting


def test_the_page_is_whole(page: Page) -> None:
    page.check()
    assert len(page.drawings()) == 7


def test_a_mistake_is_shown_as_its_video(page: Page) -> None:
    """Only the wrong video is this dark."""
    videos = page.sources("video")
    assert len(videos) == 1
    content = base64.b64decode(videos[0].removeprefix("data:video/mp4;base64,"))
    assert content.index(b"moov") < content.index(b"mdat")  # the index first, so that it plays while it loads
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert len(container.streams) == 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 8
    assert frames[0].shape == (32, 40, 3)
    assert 20 < np.mean(frames) < 70


def test_clips_start_by_themselves_and_silently(page: Page) -> None:
    given = next(given for tag, given in page.elements if tag == "video")
    assert {"autoplay", "loop", "muted", "playsinline"} <= set(given)


def _encode(path: Path, height: int, width: int, frames: int, rate: int, noise: bool = False) -> None:
    """Frame k has brightness k, or noise, which cannot be compressed."""
    rng = np.random.default_rng(0)
    shape = (height, width, 3)
    pictures = [
        rng.integers(0, 255, shape).astype(np.uint8) if noise else np.full(shape, number % 256, np.uint8)
        for number in range(frames)
    ]
    encode(path, pictures, rate=rate, options={"preset": "ultrafast", "crf": "10"})


def test_the_middle_of_a_span_is_shown(tmp_path: Path) -> None:
    _encode(tmp_path / "long.mp4", 48, 64, 200, 10)
    _encode(tmp_path / "other.mp4", 48, 64, 2, 10)
    _encode(tmp_path / "seen.mp4", 48, 64, 2, 10)
    rows = ("long.mp4,a,val,6,16", "other.mp4,b,val,,", "seen.mp4,b,train,,", "seen.mp4,a,train,0,1")
    (tmp_path / "list.csv").write_text("\n".join(("path,label,split,start,end", *rows)))
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "list.csv", "")
    video = {"video": str(tmp_path / "long.mp4"), "start": 6.0, "end": 16.0, "error": ""}
    _predictions(run, [{**video, **_said("a", "b")}])
    page = Page(write_report(run))
    assert "6.00–16.00 s" in page.words
    with av.open(io.BytesIO(base64.b64decode(page.sources("video")[0].partition(",")[2])), "r") as container:
        brightness = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    # Four seconds of ten frames, from 9 to 13.
    np.testing.assert_allclose(brightness, np.arange(90, 130), atol=4)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A run with two mistakes, which are spans of a file that cannot be compressed."""
    _encode(tmp_path / "0.mp4", 192, 256, 20, 10, noise=True)
    shutil.copy(tmp_path / "0.mp4", tmp_path / "1.mp4")
    rows = ("0.mp4,a,val,0,1", "0.mp4,b,val,1,2", "1.mp4,a,train,,")
    (tmp_path / "list.csv").write_text("\n".join(("path,label,split,start,end", *rows)))
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "list.csv", "")
    spans = (({"start": 0.0, "end": 1.0}, "a", "b"), ({"start": 1.0, "end": 2.0}, "b", "a"))
    video = {**_video(0), "video": str(tmp_path / "0.mp4")}
    _predictions(run, [{**video, **span, **_said(label, said)} for span, label, said in spans])
    return run


def _size(clip: str) -> tuple[int, int]:
    with av.open(io.BytesIO(base64.b64decode(clip.partition(",")[2])), "r") as container:
        return container.streams.video[0].height, container.streams.video[0].width


def test_spans_of_one_file_are_told_apart(noise: Path) -> None:
    first, second = Page(write_report(noise)).sources("video")
    assert first != second


def test_a_clip_that_compresses_badly_is_shown_smaller_or_not_at_all(
    noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Page(write_report(noise)).sources("video")
    assert [_size(clip) for clip in whole] == [(192, 256)] * 2
    limit = len(base64.b64decode(whole[0].partition(",")[2])) // 2
    monkeypatch.setattr("vivit.report.clips.CLIP_BYTES", limit)
    smaller = Page(write_report(noise)).sources("video")
    assert len(smaller) == 2
    assert all(_size(clip)[0] < 192 and len(base64.b64decode(clip.partition(",")[2])) <= limit for clip in smaller)
    monkeypatch.setattr("vivit.report.clips.CLIP_BYTES", 500)
    page = Page(write_report(noise))
    assert page.sources("video") == []
    assert "too large for the page" in page.words


def test_all_clips_fit_into_eight_megabytes() -> None:
    """In base64, three bytes become four letters."""
    assert MOST_CLIPS * CLIP_BYTES * 4 / 3 < 7_000_000


def test_the_most_confident_mistakes_are_shown(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "gone", "")
    rows = [{**_video(number), **_said("a", "b", 0.5 + number / 100)} for number in range(20)]
    rows += [{**_video(20), **_said("a", "a", 0.99)}, {**_video(21, "broken"), "label": "a", **UNREAD}]
    _predictions(run, rows)
    shown = re.findall(r"\d+\.mp4", Page(write_report(run)).words.partition("Classes")[0])
    assert shown == [f"{number}.mp4" for number in range(19, 11, -1)]


def test_without_the_data_the_rest_of_the_page_is_there(run: Path, tmp_path: Path) -> None:
    note = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**note, "data": str(tmp_path / "gone")}))
    page = Page(write_report(run))
    assert page.sources("video") == []
    assert "No clips" in page.words and str(tmp_path / "gone") in page.words
    assert page.table("true", "predicted") == [["dark", "bright", "1 of 1"]]


def test_data_that_has_moved_is_found(run: Path, bright_dark: Path, tmp_path: Path) -> None:
    text = (run / "val_predictions.csv").read_text().replace(str(bright_dark), "/of/another/machine")
    (run / "val_predictions.csv").write_text(text)
    shutil.copytree(bright_dark, tmp_path / "moved")
    assert len(Page(write_report(run, str(tmp_path / "moved"))).sources("video")) == 1


def test_a_change_of_the_data_is_mentioned(run: Path, tmp_path: Path, bright_dark: Path) -> None:
    shutil.copytree(bright_dark, tmp_path / "other")
    for file in (tmp_path / "other").rglob("*.mp4"):
        file.write_bytes(file.read_bytes() + b"\0")
    page = Page(write_report(run, str(tmp_path / "other")))
    assert "not those that were scored" in page.words
    assert data_hash(open_data(tmp_path / "other").split("val"))[:16] in page.words
    assert "not those that were scored" not in Page(write_report(run)).words


def test_an_unreadable_clip_is_a_line(run: Path, held_out: VideoSet, tmp_path: Path, bright_dark: Path) -> None:
    shutil.copytree(bright_dark, tmp_path / "broken")
    for file in (tmp_path / "broken" / "dark").iterdir():
        file.write_bytes(b"nothing")
    page = Page(write_report(run, str(tmp_path / "broken")))
    assert page.sources("video") == []
    assert "broken/dark" in page.words


def test_each_head_has_its_scores_and_the_joint_score_comes_first(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"verb": ["take", "put"], "noun": ["cup", "pan", "lid"]}, tmp_path / "gone", "")
    of_epoch = {"verb_top1": 0.75, "noun_top1": 0.5, "action_top1": 0.25, "action_top5": 1.0}
    sure = {"verb_top5": 1.0, "noun_top5": 1.0}  # of two and three classes
    _lines(run / "metrics.jsonl", [{"epoch": 1, "step": 3, "loss": 2.0, **of_epoch, **sure, "videos": 4}])
    answers = [("take", "take", "cup", "cup"), ("take", "take", "cup", "pan"), ("take", "take", "lid", "pan")]
    answers.append(("put", "take", "cup", "cup"))
    _predictions(
        run,
        [
            {**_video(i), **_said(verb, v, 0.9, "verb_"), **_said(noun, n, 0.1 * (i + 1), "noun_")}
            for i, (verb, v, noun, n) in enumerate(answers)
        ],
    )
    page = Page(write_report(run))
    assert page.scores == {name: f"{value:.1%}".replace("%", "\xa0%") for name, value in of_epoch.items()}
    assert next(iter(page.scores)) == "action_top1"
    lines = [given["style"] for tag, given in page.elements if given.get("class") == "line"]
    assert len(set(lines)) == len(lines) == 4
    assert page.table("class", "videos") == [
        ["put", "1", "0.0 %", "1× take"],
        ["take", "3", "100.0 %", ""],
        ["lid", "1", "0.0 %", "1× pan"],
        ["cup", "3", "66.7 %", "1× pan"],
        ["pan", "0", "–", ""],
    ]
    # Three of four videos have the verb "take", and three the noun "cup".
    assert "Always predicting the most frequent verb would give 75.0\xa0%" in page.words
    order = [page.words.index(f"{number}.mp4") for number in (3, 2, 1)]
    assert order == sorted(order) and "0.mp4" not in page.words


def test_many_labels_are_counted_one_by_one(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": ["run", "jump", "sit"]}, tmp_path / "gone", "")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "architecture": {"multi_label": True}}))
    _lines(run / "metrics.jsonl", [{"epoch": 1, "step": 3, "loss": 2.0, "mAP": 0.4567, "videos": 3, "unreadable": 0}])
    said = [("run;jump", "run"), ("jump", "jump;sit"), ("run", "jump;sit"), ("", "")]
    _predictions(run, [{**_video(i), "labels": labels, "predicted": named} for i, (labels, named) in enumerate(said)])
    page = Page(write_report(run))
    assert page.scores == {"mAP": "45.7\xa0%"}
    assert page.table("class", "videos", "recall", "precision") == [
        ["run", "2", "50.0 %", "100.0 %"],
        ["jump", "2", "50.0 %", "50.0 %"],
        ["sit", "0", "–", "0.0 %"],
    ]
    assert page.words.index("2.mp4") < page.words.index("0.mp4")
    assert "3.mp4" not in page.words
    words = " ".join(page.words.split())
    assert "missed run wrongly predicted jump, sit 2.mp4" in words
    assert "right run missed jump 0.mp4" in words


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "gone", "")
    (run / "config.json").unlink()
    page = Page(write_report(run))
    assert "No epoch has ended yet" in page.words
    assert page.sources("video") == page.sources("img") == []
    for name in ("metrics.jsonl", "steps.jsonl", "sessions.jsonl"):
        (run / name).touch()
    _lines(run / "sessions.jsonl", [{"started": "2026-01-02T03:04:05+00:00"}])
    _lines(run / "steps.jsonl", _steps(1))
    assert "last 3" in Page(write_report(run)).words


def test_a_line_that_is_being_written_is_left_out(run: Path) -> None:
    _lines(run / "steps.jsonl", _steps(8))
    with (run / "steps.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 0.0')
    assert "last 0.375" in Page(write_report(run)).words


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("steps.jsonl", '{"step": 1}\nno\n{"step": 3}\n', "line 2 is not JSON"),
        ("metrics.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("recipe.json", "{", "not JSON"),
        ("config.json", '{"architecture": "large"}', "architecture is not a JSON object"),
        ("val_predictions.csv", "video,predicted\na,b\n", "damaged"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, content: str, message: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        write_report(run)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "none")
    with pytest.raises(UserError, match=r"no recipe\.json"):
        write_report(tmp_path)


def test_a_loss_that_is_not_a_number_is_mentioned(run: Path) -> None:
    steps = _steps(8)
    steps[5]["loss"], steps[6]["loss"] = math.nan, math.inf
    _lines(run / "steps.jsonl", steps)
    _lines(run / "metrics.jsonl", [{"epoch": 1, "step": 8, "loss": math.nan, "top1": 0.5}])
    page = Page(write_report(run))
    assert "The loss is not a number at 2 steps, first at step 6." in page.words
    assert "2 steps without a number" in page.words
    assert "nan" not in page.words.lower() and "inf" not in page.words.lower()
    assert page.table("epoch", "loss") == [["1", "–", "50.0 %", "–", "–"]]


STRANGE = [
    "<script>alert(1)</script>",
    "</table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }}",
    "$\\frac{1}$",
    "=1+1",
    "رمي الكرة",
    "\u202eevil",
    "踢足球",
    "🏂",
    "long " * 100 + "end",
]


def test_strange_names_are_only_text(tmp_path: Path) -> None:
    data = tmp_path / "<b>data</b>"
    run = _begin(
        tmp_path / "<i>run",
        {"classes": STRANGE},
        data,
        "<u>hash</u>",
        RECIPES["demo"].model_copy(update={"model": "<s>"}),
    )
    _lines(run / "metrics.jsonl", [{"epoch": 1, "step": 3, "loss": 2.0, "top1": 0.5, "data_hash": "<q>"}])
    _lines(run / "sessions.jsonl", [{**SESSION, "device": "<em>", "versions": {"<a>": "<a>"}}])
    # As `write_per_video` protects spreadsheets.
    rows = [{**_video(i), **_said(name, STRANGE[i - 1], 0.9)} for i, name in enumerate(STRANGE)]
    for row in rows:
        row |= {name: f"'{row[name]}" for name in ("label", "predicted") if row[name] == "=1+1"}
    rows += [{**_video(99, "<script>no</script>"), "video": "<script>.mp4", "label": STRANGE[0], **UNREAD}]
    _predictions(run, rows)
    page = Page(write_report(run))
    # Elements that only the data could have opened.
    assert not {tag for tag, _ in page.elements} & {"script", "b", "i", "u", "q", "s", "em", "a"}
    assert [given for tag, given in page.elements if tag == "img"] == []
    assert not any(name.startswith("on") for _, given in page.elements for name in given)
    found = {row[0]: row[1:] for row in page.table("class", "videos")}
    assert set(found) == {" ".join(name.split()) for name in STRANGE}
    assert found["=1+1"] == ["1", "0.0 %", "1× $\\frac{1}$"]
    assert "<script>.mp4" in page.words


def test_strange_heads_are_only_text(tmp_path: Path) -> None:
    heads = {"$\\frac{": ["a", "b"], "<script>": ["c", "d"]}
    run = _begin(tmp_path / "run", heads, tmp_path / "gone", "")
    scores = {f"{head}_top1": 0.5 for head in (*heads, "+".join(heads))}
    _lines(run / "metrics.jsonl", [{"epoch": 1, "step": 3, "loss": 2.0, **scores}])
    answers = [_said(names[0], names[1], prefix=f"{head}_") for head, names in heads.items()]
    _predictions(run, [{**_video(0), **answers[0], **answers[1]}])
    page = Page(write_report(run))
    assert page.scores == dict.fromkeys(scores, "50.0\xa0%")
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.words.count("<script>") > 2


def test_a_file_name_that_is_not_text_does_not_break_the_page(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "gone", "")
    header = "video,start,end,error,label,predicted,probability,label_probability,label_rank\r\n"
    (run / "val_predictions.csv").write_bytes(header.encode() + b"/gone/\xff.mp4,,,,a,b,0.9,0.1,2\r\n")
    assert "?.mp4" in Page(write_report(run)).words


def test_the_worst_of_many_classes_are_shown_and_the_others_folded(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(400)]
    run = _begin(tmp_path / "run", {"classes": names}, tmp_path / "gone", "")
    wrong = {7, 300}
    rows = [{**_video(i), **_said(name, names[8] if i in wrong else name)} for i, name in enumerate(names) if i != 5]
    _predictions(run, rows)
    page = Page(write_report(run))
    table = page.table("class", "videos")
    assert [row[0] for row in table[:2]] == ["class 7", "class 300"]
    assert table[-1] == ["class 5", "0", "–", ""]
    assert len(table) == 400
    assert "The other 388 classes" in page.words
    (source,) = (given["xlink:href"] for tag, given in page.elements if tag == "image")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    scale = len(pixels) // 400
    opaque = pixels[scale // 2 :: scale, scale // 2 :: scale, 3] > 0
    expected = np.eye(400, dtype=bool)
    expected[5, 5] = expected[7, 7] = expected[300, 300] = False
    expected[7, 8] = expected[300, 8] = True
    np.testing.assert_array_equal(opaque, expected)


def test_unreadable_videos_count_as_wrong_and_are_listed(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "gone", "")
    rows = [{**_video(0, "/gone/0.mp4: no picture in it"), "label": "a", **UNREAD}, {**_video(1), **_said("a", "a")}]
    _predictions(run, rows)
    page = Page(write_report(run))
    assert page.table("class", "videos")[0] == ["a", "2", "50.0 %", ""]
    assert ["/gone/0.mp4", "no picture in it"] in [row for table in page.rows() for row in table]
    assert page.drawn("confusion matrix of 2 classes").count("1") == 1
    assert page.table("true", "predicted") == []


def test_settings_begin_with_what_differs_from_the_nearest_recipe(tmp_path: Path) -> None:
    recipe = RECIPES["demo"].model_copy(update={"epochs": 77, "mirrored": {"左": "右"}})
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "gone", "", recipe)
    rows = Page(write_report(run)).table("setting", "here", "in demo")
    assert sorted(rows[:2]) == [["epochs", "77", str(RECIPES["demo"].epochs)], ["mirrored", '{"左": "右"}', "{}"]]
    page = Page(run / "report.html")
    shown = {row[0]: row[1] for table in page.rows() for row in table if len(row) in (2, 3)}
    for name, value in recipe.model_dump(mode="json").items():
        expected = (
            "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
        assert shown[name] == expected, name


def test_without_predictions_the_matrix_drawn_by_training_is_shown(tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": ["a", "b"]}, tmp_path / "gone", "")
    Image.new("RGB", (3, 2)).save(run / "confusion.png")
    (source,) = Page(write_report(run)).sources("img")
    assert base64.b64decode(source.partition(",")[2]) == (run / "confusion.png").read_bytes()


def test_the_same_run_gives_the_same_page(page: Page, whole_run: Path) -> None:
    assert write_report(whole_run).read_text("utf-8") == page.source


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, 1e30])
def test_curves_of_one_value_can_be_drawn(value: float) -> None:
    steps = [{name: value for name in _steps(1)[0]} | {"step": step} for step in (1, 2, 3)]
    charts = run_curves(steps, [], [])
    assert len(charts) == 5
    assert all("NaN" not in chart.svg and "nan" not in chart.svg for chart in charts)


def test_named_data_that_does_not_exist_is_an_error(run: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_report(run, data="nowhere")


LONG = ["Pretending to take something out of something (left hand)", "roll_counterclockwise", "aNameWithoutSpaces" * 4]


@needs_chromium
@pytest.mark.parametrize("classes", [LONG, [f"class {i}" for i in range(9)], [f"drinking {i} cups" for i in range(36)]])
def test_on_a_phone_nothing_is_cut_and_all_can_be_read(classes: list[str], tmp_path: Path) -> None:
    run = _begin(tmp_path / "run", {"classes": classes}, tmp_path / "gone", "7" * 64)
    _lines(run / "metrics.jsonl", [{"epoch": 1, "step": 40, "loss": 1.5, "top1": 0.5, "top5": 0.75, "videos": 99}])
    _lines(run / "steps.jsonl", _steps(40))
    _lines(run / "sessions.jsonl", [SESSION])
    answers = [(label, classes[(i * i) % len(classes)]) for i, label in enumerate(classes * 3)]
    unread = {**_video(99, f"/gone/{'x' * 90}.mp4: no index"), "label": classes[0], **UNREAD}
    _predictions(run, [*({**_video(i), **_said(*answer)} for i, answer in enumerate(answers)), unread])
    seen = look(write_report(run))
    assert (seen.width, seen.outside, seen.cut) == (WIDTH, [], [])
    assert seen.bars == min(len(classes), SHOWN)
    # A matrix of many classes shows only its colours, until it is enlarged.
    assert seen.letters > 8 or len(classes) > 10
