"""The demo on a few videos: everything but the score."""

import json
import re
import subprocess
import sys
from pathlib import Path

VIVIT = str(Path(sys.executable).parent / "vivit")


def test_demo_trains_both_models_and_writes_a_page_that_stands_alone(tmp_path: Path) -> None:
    command = [VIVIT, "demo", "--videos", "36"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "demo" / "report.html").read_text()
    examples = re.findall(r"(?m)^(videos/val/(\w+)/\d+\.mp4) +(\w+) +[\d.]+% +(right|wrong)", result.stdout)
    assert examples and all((label == answer) == (word == "right") for _, label, answer, word in examples)
    assert page.count('<video src="data:video/mp4;base64,') == len({video for video, *_ in examples}) == len(examples)
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<svg") == 4
    assert "://" not in page.replace("http://www.w3.org", "")
    for name in ("factorised_encoder", "average_pooling"):
        (file,) = (tmp_path / "demo" / name / "evaluation").glob("val-*/scores.json")
        scores = json.loads(file.read_text())
        assert scores["videos"] == 9
        printed = f"{name.replace('_', ' '):20s} {scores['top1']:6.1%}"
        assert printed in result.stdout
        assert f"{100 * scores['top1']:.1f}\xa0%" in page

    assert "\\n" not in result.stdout
    label, check, train, predict = result.stdout.partition("now your own videos")[2].splitlines()[1:]
    assert "data check my_videos" in check and " train my_videos" in train and " predict clip.mp4" in predict
    labelled = subprocess.run(label, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert labelled.returncode == 0 and "%" in labelled.stdout, labelled.stderr

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is trained already") == 2
