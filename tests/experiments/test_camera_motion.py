import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import transform

from vivit.errors import UserError
from vivit.experiments import camera_motion, film, pictures
from vivit.experiments.camera_motion import CLASSES, FRAME_RATES, FRAMES, QUICKEST, SHAKE, SLOWEST, generate, render
from vivit.experiments.pictures import PHOTOGRAPHS, draw_picture, photograph, photograph_folder

MOTIONS = {
    "x": ("pan_left", "pan_right"),
    "y": ("tilt_up", "tilt_down"),
    "size": ("zoom_in", "zoom_out"),
    "angle": ("roll_counterclockwise", "roll_clockwise"),
}
OPPOSITE = {a: b for pair in MOTIONS.values() for a, b in (pair, pair[::-1])} | {"static": "static"}
GAP = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    generate(folder, train_videos=27, val_videos=18, workers=1)
    return folder


def read(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def seen_after(frame: np.ndarray, x: float = 0, y: float = 0, size: float = 0, angle: float = 0) -> np.ndarray:
    """A grey frame as the camera sees it after a motion; NaN outside the frame.

    x and y are in heights of the frame, size is the window's log size, angle is clockwise in radians.
    """
    height = frame.shape[0]
    rows_columns = np.exp(size) * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (np.array(frame.shape) - 1) / 2
    offset = centre - rows_columns @ centre + np.array([y, x]) * height
    return ndimage.affine_transform(frame, rows_columns, offset, order=1, cval=np.nan)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    known = ~np.isnan(a)
    return float(np.corrcoef(a[known], b[known])[0, 1])


def grey(frame: np.ndarray) -> np.ndarray:
    """A frame at half its size, without colour."""
    plain = frame.astype(np.float64).mean(axis=-1) if frame.ndim == 3 else frame.astype(np.float64)
    return transform.downscale_local_mean(plain, (2, 2))


def measure(first: np.ndarray, later: np.ndarray) -> tuple[str, float]:
    """The motion, and its amount, that explains the later frame best; found by trying many of each."""
    first, later = grey(first), grey(later)
    tries = {}
    for motion, most in zip(MOTIONS, 1.6 * GAP * QUICKEST, strict=True):
        for amount in np.linspace(-most, most, 41):
            tries[motion, float(amount)] = correlation(seen_after(first, **{motion: amount}), later)
    return max(tries, key=lambda one: tries[one])


def classify(clip: np.ndarray) -> str:
    """The class of a clip, by the motion between two frames in its middle."""
    start = (len(clip) - GAP) // 2
    motion, amount = measure(clip[start], clip[start + GAP])
    if abs(amount) < 0.3 * GAP * SLOWEST[list(MOTIONS).index(motion)]:
        return "static"
    return MOTIONS[motion][int(amount > 0)]


def test_measure_agrees_with_plain_edits() -> None:
    scene = photograph("astronaut.png")[100:300, 100:340].astype(np.float64) / 255
    camera = scene[50:146, 50:178]

    assert measure(camera, scene[50:146, 70:198])[0] == "x"
    assert measure(camera, scene[50:146, 70:198])[1] == pytest.approx(20 / 96, abs=0.03)
    assert measure(camera, scene[35:131, 50:178])[0] == "y"
    assert measure(camera, scene[35:131, 50:178])[1] == pytest.approx(-15 / 96, abs=0.03)

    enlarged = transform.rescale(scene, 1.25, channel_axis=-1)
    grown = enlarged[int(98 * 1.25) - 48 :, int(114 * 1.25) - 64 :][:96, :128]
    assert measure(camera, grown)[0] == "size"
    assert measure(camera, grown)[1] == pytest.approx(-np.log(1.25), abs=0.05)

    turned = transform.rotate(scene, 15, center=(113.5, 97.5))[50:146, 50:178]  # counter-clockwise on the screen
    assert measure(camera, turned)[0] == "angle"
    assert measure(camera, turned)[1] == pytest.approx(np.radians(15), abs=0.05)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_camera_does_what_the_class_says(class_name: str) -> None:
    for seed, name in enumerate(["astronaut.png", "chelsea.png", "coffee.png"]):
        clip = render(class_name, np.random.default_rng(seed), photograph(name))
        assert FRAMES[0] <= len(clip) <= FRAMES[1]
        assert classify(clip) == class_name, name
        assert classify(clip[::-1]) == OPPOSITE[class_name], name


def test_encoded_videos_show_what_their_folder_says(videos: Path) -> None:
    files = sorted(videos.rglob("*.mp4"))
    wrong = [str(file) for file in files if classify(read(file)) != file.parent.name]
    assert len(wrong) <= 2, wrong  # a passing object can mislead the measurement


@pytest.mark.parametrize("class_name", ["pan_left", "tilt_down"])
def test_speed_is_within_its_bounds(class_name: str) -> None:
    motion = 0 if class_name == "pan_left" else 1
    for seed in range(4):
        clip = render(class_name, np.random.default_rng(seed), photograph("astronaut.png"))
        steps = range(0, len(clip) - GAP, GAP)
        amounts = [abs(measure(clip[start], clip[start + GAP])[1]) for start in steps]
        speed = sum(amounts) / (GAP * len(steps))
        # The pace varies by up to 0.6 around its mean, and the hand shakes.
        assert 0.4 * SLOWEST[motion] < speed < 1.6 * QUICKEST[motion]


def test_static_moves_no_more_than_the_hand_shakes() -> None:
    moved = []
    for seed in range(6):
        clip = render("static", np.random.default_rng(seed), photograph("astronaut.png"))
        first = grey(clip[0])
        for later in clip[6::6]:
            tries = {
                (x, y): correlation(seen_after(first, x=x, y=y), grey(later))
                for x in np.linspace(-0.06, 0.06, 13)
                for y in np.linspace(-0.06, 0.06, 13)
            }
            x, y = max(tries, key=lambda one: tries[one])
            moved.append(max(abs(x), abs(y)))
    assert 0 < max(moved) <= 2 * SHAKE[0] + 0.01
    assert max(moved) < 0.5 * 16 * SLOWEST[0]


def test_no_frame_sees_beyond_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = []
    sample = torch.nn.functional.grid_sample

    def watched(canvas: torch.Tensor, grid: torch.Tensor, **options: object) -> torch.Tensor:
        grids.append(grid)
        return sample(canvas, grid, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(film.F, "grid_sample", watched)
    for seed, class_name in enumerate(CLASSES * 3):
        render(class_name, np.random.default_rng(seed), photograph("page.png"))
    assert len(grids) == 27
    assert all(0.5 < grid.abs().max() <= 1 for grid in grids)


def test_same_seed_same_pictures_whatever_the_number_of_workers(videos: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", train_videos=9, val_videos=2, workers=2)
    generate(tmp_path / "other", train_videos=1, val_videos=0, workers=1, seed=1)
    again = sorted((tmp_path / "again").rglob("*.mp4"))
    assert len(again) == 11
    for file in again:
        assert np.array_equal(read(file), read(videos / file.relative_to(tmp_path / "again"))), file
    (other,) = (tmp_path / "other").rglob("*.mp4")
    here = read(videos / other.relative_to(tmp_path / "other"))
    assert read(other).shape != here.shape or not np.array_equal(read(other), here)


def test_every_class_has_as_many_videos_and_no_two_are_alike(videos: Path) -> None:
    for split, each in (("train", 3), ("val", 2)):
        assert {folder.name: len(list(folder.iterdir())) for folder in (videos / split).iterdir()} == dict.fromkeys(
            CLASSES, each
        )
    assert len({hashlib.sha256(read(file).tobytes()).digest() for file in videos.rglob("*.mp4")}) == 45


def test_train_and_val_share_no_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def watched(name: str) -> np.ndarray:
        asked.append(name)
        return photograph(name)

    monkeypatch.setattr(pictures, "photograph", watched)
    used = {}
    for split in PHOTOGRAPHS:
        asked.clear()
        for seed in range(150):
            draw_picture(np.random.default_rng(seed), split)
        used[split] = {hashlib.sha256((photograph_folder() / name).read_bytes()).digest() for name in asked}
        assert len(used[split]) == len(PHOTOGRAPHS[split]) == len(set(asked))
    assert not used["train"] & used["val"]


def test_files_are_h264_that_browsers_play(videos: Path) -> None:
    for file in videos.rglob("*.mp4"):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert stream.average_rate in FRAME_RATES
            assert stream.width > stream.height >= 48
        written = file.read_bytes()
        assert 0 < written.find(b"moov") < written.find(b"mdat")  # the index first, so that it plays while it loads
        assert len(written) < 40_000


def test_interrupted_generation_leaves_whole_files_and_resumes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = camera_motion.encode, 0

    def encode_until_interrupted(clip: np.ndarray, path: Path, *how: int) -> None:
        nonlocal calls
        calls += 1
        encode(clip, path, *how)
        if calls == 5:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    monkeypatch.setattr(camera_motion, "encode", encode_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, train_videos=9, val_videos=0, workers=1)
    whole = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.mp4")}
    assert len(whole) == 4

    reports: list[tuple[int, int]] = []
    generate(tmp_path, train_videos=9, val_videos=0, workers=1, progress=lambda *report: reports.append(report))
    assert reports == [(done, 9) for done in range(4, 10)]
    assert all(file.stat().st_mtime_ns == written for file, written in whole.items())
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".mp4", ".json"}
    for file in tmp_path.rglob("*.mp4"):
        assert np.array_equal(read(file), read(videos / file.relative_to(tmp_path)))


def test_a_folder_with_other_videos_is_refused(tmp_path: Path) -> None:
    generate(tmp_path / "set", train_videos=1, val_videos=0, workers=1)
    with pytest.raises(UserError, match=r"set holds videos made with .*'seed': 0.* delete it or name another folder"):
        generate(tmp_path / "set", train_videos=1, val_videos=0, workers=1, seed=1)
    shutil.rmtree(tmp_path / "set")
    generate(tmp_path / "set", train_videos=1, val_videos=0, workers=1, seed=1)


def test_without_scikit_image_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match=r"pip install 'vivit\[demo\]'"):
        generate(tmp_path, train_videos=1, val_videos=0, workers=1)
    assert not list(tmp_path.iterdir())
