"""The labels of the benchmark tell what its videos show, and its splits share nothing."""

from pathlib import Path

import numpy as np
import pytest

from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.experiments import motion_benchmark
from vivit.experiments.material import open_material
from vivit.experiments.motion_benchmark import VERBS, BenchmarkSettings, generate

FEW = BenchmarkSettings(train_videos=len(VERBS), val_videos=3, test_videos=3, size=(64, 48))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    generate(folder, settings=FEW, workers=1)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_package_reads_it_as_verbs_and_nouns(benchmark: Path) -> None:
    data = open_data(benchmark)
    assert data.labels.classes["verb"] == VERBS
    assert set(data.labels.classes["noun"]) <= set(open_material(None, None).nouns)
    assert data.labels.joint == "action"
    assert [len(data.split(split).videos) for split in ("train", "val", "test")] == [len(VERBS), 3, 3]


def test_the_same_settings_make_the_same_bytes_interrupted_or_not_whatever_the_workers(
    benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = motion_benchmark.encode, 0

    def encode_until_interrupted(clip: np.ndarray, path: Path, *how: int) -> None:
        nonlocal calls
        calls += 1
        encode(clip, path, *how)
        if calls == 5:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(motion_benchmark, "encode", encode_until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, settings=FEW, workers=1)
    assert len(list(tmp_path.rglob("*.mp4"))) == 4
    generate(tmp_path, settings=FEW, workers=2)
    assert files_in(tmp_path) == files_in(benchmark)


def test_a_folder_made_with_other_settings_is_refused(benchmark: Path) -> None:
    with pytest.raises(UserError, match="delete it or name another folder"):
        generate(benchmark, settings=BenchmarkSettings(seed=1))
