"""Several ranks evaluate together: each video counts once, and all ranks have the same result."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import random_weights
from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.inference.views import Views
from vivit.model.vivit import ViViT
from vivit.runtime import Ranks
from vivit.training.recipe import Recipe
from vivit.weights.store import load, save

# The processes are forked from one that has imported everything, and meet over a port.
SHARED = """
import json, os, socket, sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import save_file
from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import evaluate
from vivit.evaluation.score import score_model
from vivit.inference.views import Views
from vivit.runtime import Ranks
from vivit.weights.store import load, save

data, folder = map(Path, sys.argv[1:])

def join(rank, size, port):
    torch.set_num_threads(1)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{size}", "LOCAL_WORLD_SIZE": f"{size}",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "OMP_NUM_THREADS": "1"}
    return PartialState(cpu=True)

def together(rank, size, count, port):
    state = join(rank, size, port)
    videos = open_data(data).split("all")
    found = evaluate(load(folder / "model"), replace(videos, videos=videos.videos[:count]),
                     Views(2), ranks=Ranks(rank, size, gather_object))
    name = f"{size} processes, {count} videos, {rank}"
    save_file(dict(found.logits), folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps([list(found.failures.items()), found.scores()]))
    state.destroy_process_group()

def command(rank, size, count, port):
    state = join(rank, size, port)
    (folder / "printed").mkdir(exist_ok=True)
    sys.stdout = open(folder / "printed" / f"{rank}.txt", "w")
    score_model(data, folder / "model", views=Views(2), split="all", out=folder / "out", device="cpu")
    sys.stdout.close()
    state.destroy_process_group()

for target, size, count in ((together, 2, 12), (together, 3, 11), (together, 3, 2), (command, 2, 12)):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [get_context("fork").Process(target=target, args=(rank, size, count, port)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0, (target, size, count, process.exitcode)
"""


@pytest.fixture(scope="module")
def data(bright_dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos; the second and the ninth are unreadable."""
    data = shutil.copytree(bright_dark, tmp_path_factory.mktemp("processes") / "data")
    for broken in ("bright/bright1.mp4", "dark/dark2.mp4"):
        (data / broken).write_bytes(b"no video")
    return data


@pytest.fixture(scope="module")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the result of each process."""
    folder = tmp_path_factory.mktemp("shared")
    recipe = Recipe(
        model="vivit-ti-16x2-fe",
        num_frames=4,
        frame_stride=1,
        image_size=32,
        architecture={"hidden_size": 32, "num_heads": 2, "num_layers": 1, "mlp_dim": 64, "temporal_layers": 1},
    )
    model = ViViT(
        recipe.build_config({"classes": 2}),
        classes={"classes": ["bright", "dark"]},
        preprocessing=recipe.build_preprocessing(),
    )
    random_weights(model, std=0.3)
    save(model, folder / "model")
    run = subprocess.run([sys.executable, "-c", SHARED, data, folder], timeout=240, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


def alone(data: Path, folder: Path, count: int) -> Evaluation:
    videos = open_data(data).split("all")
    few = replace(videos, videos=videos.videos[:count])
    return evaluate(load(folder / "model"), few, Views(2))


@pytest.mark.parametrize(("size", "count"), [(2, 12), (3, 11), (3, 2)])
def test_every_rank_has_the_result_of_a_single_process(size: int, count: int, data: Path, shared: Path) -> None:
    expected = alone(data, shared, count)
    assert len(expected.failures) == (1 if count == 2 else 2)
    first = load_file(shared / f"{size} processes, {count} videos, 0.safetensors")["classes"]
    torch.testing.assert_close(first, expected.logits["classes"], rtol=1e-5, atol=1e-6, equal_nan=True)
    for rank in range(size):
        name = f"{size} processes, {count} videos, {rank}"
        logits = load_file(shared / f"{name}.safetensors")["classes"]
        assert torch.equal(logits.nan_to_num(7), first.nan_to_num(7))
        failures, scores = json.loads((shared / f"{name}.json").read_text())
        assert dict(failures) == expected.failures
        assert scores == expected.scores()


def test_one_process_of_the_command_prints_and_writes(data: Path, shared: Path) -> None:
    printed = [(shared / "printed" / f"{rank}.txt").read_text() for rank in range(2)]
    assert printed[1] == ""
    scores = json.loads((shared / "out" / "scores.json").read_text())
    expected = alone(data, shared, 12)
    assert {name: scores[name] for name in expected.scores()} == expected.scores()
    assert scores["failures"] == list(expected.failures.values())
    assert f"top-1 {expected.accuracy(1):.1%}" in printed[0]
    assert printed[0].count("on 12 videos") == printed[0].count("top-1") == 1
    assert printed[0].count("not read, counted as wrong") == 2


def test_several_ranks_need_a_gather_function(data: Path, tiny_recipe: Recipe) -> None:
    model = ViViT(tiny_recipe.build_config({"classes": 2}), preprocessing=tiny_recipe.build_preprocessing())
    with pytest.raises(ValueError, match="gather"):
        evaluate(model, open_data(data).split("all"), ranks=Ranks(0, 2))
