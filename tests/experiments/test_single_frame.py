"""Single frames tell how bright a video is, but not whether it becomes brighter or darker."""

from pathlib import Path

from tests.support import REFERENCE, encode, noisy
from vivit.experiments.single_frame import Frames, measure

# Compression would tell the order of the frames.
LOSSLESS = {"preset": "ultrafast", "qp": "0", "threads": "1"}


def test_what_one_frame_shows_is_told_and_what_needs_two_is_not(tmp_path: Path) -> None:
    rows = ["path,split,shade,change"]
    for split, count in (("train", 12), ("val", 4), ("test", 8)):
        for number in range(count):
            shade, change = number % 2, number // 2 % 2
            frames = [noisy(60 + 100 * shade + 10 * (time if change else -time), 1)[0] for time in range(-2, 3)]
            name = f"{split}{number}.mp4"
            encode(tmp_path / name, frames, options=LOSSLESS)
            rows.append(f"{name},{split},{['dark', 'bright'][shade]},{['darkens', 'brightens'][change]}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    image_model = REFERENCE / "image_init" / "vit32" / "vit.npz"
    for count in (1, 5):
        values = measure(tmp_path / "list.csv", image_model, Frames(count, 32), train_videos=8)
        assert values["videos"] == {"train": 8, "val": 4, "test": 8}
        assert values["scores"]["shade"] == 1
        assert values["scores"]["change"] == 0.5
        assert sum(map(sum, values["confusion"]["change"])) == 8
