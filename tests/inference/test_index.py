"""An index against what `extract` gives for each file, and answers against a search by hand."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vivit
from tests.support import encode, noisy, refused, tiny_model
from vivit.config import Preprocessing
from vivit.inference import index as index_module
from vivit.inference import search
from vivit.inference.index import Changes, Index
from vivit.inference.index_files import About, IndexedVideo, IndexFiles
from vivit.inference.predictor import Predictor
from vivit.inference.timeline import ScoredWindow

CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}
STEP, SPAN = 5, 11


def saved_model(folder: Path, seed: int = 0) -> Predictor:
    fields: dict[str, Any] = {"variant": "factorised_encoder", "seed": seed}
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32), **fields), folder)
    return Predictor(folder, "cpu")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three videos of different scenes."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    for name, brightness, frames in (("a.mp4", 40, 28), ("b.mp4", 200, 18), ("deep/c.mp4", 120, 30)):
        encode(folder / name, noisy(brightness, frames=frames))
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose features were computed."""
    names: list[str] = []
    real = index_module.extract

    def noted(predictor: Predictor, video: Path, *rest: Any) -> Iterator[ScoredWindow]:
        names.append(video.name)
        return real(predictor, video, *rest)

    monkeypatch.setattr(index_module, "extract", noted)
    return names


def assert_whole(index: Index, clips: Path, predictor: Predictor) -> None:
    """The index holds what `extract` gives for the files that are there now."""
    there = sorted(path for path in clips.rglob("*") if path.is_file())
    assert sorted(index.files.source(number) for number in range(len(index.files.videos))) == there
    for number, video in enumerate(index.files.videos):
        made = list(vivit.extract(predictor, index.files.source(number), step=STEP))
        vectors = np.stack([window.features / np.linalg.norm(window.features) for window in made])
        np.testing.assert_allclose(index.files.vectors[video.rows], vectors, atol=1e-5)
        np.testing.assert_allclose(index.files.scores[video.rows], [w.scores["classes"] for w in made], atol=1e-5)
        assert index.files.times[video.rows].tolist() == [[window.start, window.end] for window in made]
    assert len(index.files.vectors) == len(index.files.times) == sum(video.windows for video in index.files.videos)


def test_only_what_is_new_is_computed(predictor: Predictor, clips: Path, computed: list[str], tmp_path: Path) -> None:
    path = tmp_path / "made.index"
    assert Index(path, predictor).update(clips, STEP) == Changes(computed=3)
    assert_whole(Index(path, predictor), clips, predictor)
    assert computed == ["a.mp4", "b.mp4", "c.mp4"]
    before = (path / "vectors.npy").stat().st_ino
    assert Index(path, predictor).update(clips) == Changes()
    assert (path / "vectors.npy").stat().st_ino == before  # nothing was written

    computed.clear()
    os.rename(clips / "a.mp4", clips / "deep" / "renamed.mp4")  # found again by its content
    os.utime(clips / "b.mp4", (1, 1))  # touched
    encode(clips / "deep" / "c.mp4", noisy(60, frames=20))  # changed
    encode(clips / "d.mp4", noisy(90, frames=12))
    index = Index(path, predictor)
    assert index.update(clips, STEP) == Changes(computed=2, moved=2, dropped=1)
    assert sorted(computed) == ["c.mp4", "d.mp4"]
    assert_whole(index, clips, predictor)

    computed.clear()
    shutil.copy(clips / "d.mp4", clips / "copy.mp4")
    (clips / "b.mp4").unlink()
    shutil.move(clips, tmp_path / "elsewhere")  # the whole folder
    index = Index(path)  # with the model that it names
    assert index.update(tmp_path / "elsewhere") == Changes(moved=1, dropped=1)
    assert computed == []
    assert_whole(index, tmp_path / "elsewhere", predictor)
    assert sorted(tmp_path.glob("made.index*")) == [path]


def test_an_update_that_was_stopped_goes_on(
    predictor: Predictor, clips: Path, computed: list[str], tmp_path: Path
) -> None:
    def stop_before_the_third(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index(tmp_path / "index", predictor).update(clips, STEP, report=stop_before_the_third)
    index = Index(tmp_path / "index", predictor)
    assert index.update(clips, STEP) == Changes(computed=3)
    assert computed == ["a.mp4", "b.mp4", "c.mp4"]
    assert_whole(index, clips, predictor)


def test_what_does_not_fit_is_refused(predictor: Predictor, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "index"
    (tmp_path / "empty").mkdir()
    refused(lambda: Index(path, predictor).update(tmp_path / "empty"), "empty: holds no video")
    refused(lambda: Index(path, predictor).update(tmp_path / "none"), "none: no such folder")
    (clips / "broken.mp4").write_bytes(b"no video")
    problems: list[Exception] = []
    assert Index(path, predictor).update(clips, STEP, unreadable=problems.append) == Changes(computed=3, unreadable=1)
    assert "broken.mp4" in str(problems[0])
    refused(lambda: Index(path, predictor).update(clips, 7), "index: has a window every 5 frames, not 7")
    refused(lambda: Index(path, predictor).update(tmp_path / "empty"), "index: is an index of .*clips")
    other = saved_model(tmp_path / "other", seed=1)
    refused(lambda: Index(path, other), "index: was made by .*, not by .*other")
    refused(lambda: Index(clips, predictor), "clips: is not an index")
    refused(lambda: Index(tmp_path / "none").search("a.mp4"), "none: no such index")
    refused(lambda: Index(path).search_label("dancing"), "class: .*no class 'dancing'")


def test_the_best_stretch_of_each_video_answers(predictor: Predictor, clips: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "index", predictor)
    index.update(clips, STEP)
    found = index.search(clips / "a.mp4", top=5)
    # Two short videos without gaps: one answer each, and none from the query itself.
    assert [match.video.name for match in found if match.video.name == "a.mp4"] == []
    assert {match.video.name for match in found} == {"b.mp4", "c.mp4"}
    query = np.stack(
        [w.features / np.linalg.norm(w.features) for w in vivit.extract(predictor, clips / "a.mp4", step=5)]
    )
    for match in found:
        made = list(vivit.extract(predictor, match.video, step=STEP))
        cosine = np.stack([window.features / np.linalg.norm(window.features) for window in made]) @ query.T
        best, _ = np.unravel_index(cosine.argmax(), cosine.shape)
        assert match.value == pytest.approx(cosine.max(), abs=1e-5)
        if np.sort(cosine.max(axis=1))[-2] < cosine.max() - 1e-4:
            assert (match.start, match.end) == (made[best].start, made[best].end)
    assert [match.value for match in found] == sorted((match.value for match in found), reverse=True)

    # A copy is no part of the query's file; its best window is equal.
    shutil.copy(clips / "a.mp4", tmp_path / "copy.mp4")
    (copied,) = index.search(tmp_path / "copy.mp4", top=1)
    assert (copied.video.name, copied.value) == ("a.mp4", pytest.approx(1, abs=1e-5))

    # Of a stretch of it, what overlaps is left out; the rest of the file is not.
    (own,) = [match for match in index.search(clips / "a.mp4", (0.1, 0.2), top=9) if match.video.name == "a.mp4"]
    assert own.query is not None and own.query[0] <= 0.1 and own.query[1] - own.query[0] == pytest.approx(SPAN / 25)
    assert own.start >= own.query[1]

    by_label = index.search_label("w", top=3)
    scores = {match.video.name: match.value for match in by_label}
    for number, video in enumerate(index.files.videos):
        assert scores[index.files.source(number).name] == pytest.approx(index.files.scores[video.rows, 1].max())


class Made(IndexFiles):
    """An index in memory."""

    def __init__(self, counts: Sequence[int], step: float, length: float) -> None:
        firsts = np.cumsum([0, *counts])
        self.about = About(folder="/", model="", fingerprint="", step=1, classes={})
        self.__dict__["videos"] = [
            IndexedVideo(f"{number}.mp4", 0, 0, "", int(firsts[number]), count) for number, count in enumerate(counts)
        ]
        starts = np.concatenate([step * np.arange(count) for count in counts])
        self.__dict__["times"] = np.stack([starts, starts + length], axis=1)


def answers_by_hand(files: Made, values: np.ndarray, top: int) -> list[int]:
    """The best rows of the groups of overlapping windows, among as many of the best windows as make `top` groups."""
    video_of = [number for number, video in enumerate(files.videos) for _ in range(video.windows)]
    ranked = [int(row) for row in np.argsort(-values, kind="stable") if np.isfinite(values[row])]
    answers: list[int] = []
    for count in range(1, len(ranked) + 1):
        group = {row: row for row in ranked[:count]}
        for _ in group:  # spread the best row of each group
            for one in group:
                for other in group:
                    apart = abs(files.times[one, 0] - files.times[other, 0])
                    if video_of[one] == video_of[other] and apart < files.times[one, 1] - files.times[one, 0]:
                        group[one] = min(group[one], group[other], key=ranked.index)
        if len(set(group.values())) > top:
            break
        answers = sorted(set(group.values()), key=ranked.index)
    return answers


def test_stretches_are_groups_of_overlapping_windows() -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        files = Made(rng.integers(1, 9, size=3).tolist(), 1.0, float(rng.choice([0.9, 1.5, 2.5])))
        values = rng.normal(size=len(files.times)).astype(np.float32)
        values[rng.random(len(values)) < 0.1] = -np.inf
        for top in (1, 2, 4, 50):
            assert search.best_stretches(files, values, top) == answers_by_hand(files, values, top)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32)
    monkeypatch.setattr(search, "PRODUCTS", 20)
    best, which = search.most_similar(vectors, queries)
    np.testing.assert_allclose(best, (vectors @ queries.T).max(axis=1), rtol=1e-5)
    assert np.array_equal(which, (vectors @ queries.T).argmax(axis=1))
    assert np.array_equal(search.column_of(vectors, 3), vectors[:, 3])
