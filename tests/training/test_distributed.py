"""No process group is left when a command ends, so that no thread of one can hold up the end of its process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny_model
from vivit.weights.store import save

# Runs each command in two processes, which note what is left when their groups are destroyed, right afterwards and at
# exit.
WATCHED = """
import atexit, gc, json, os, runpy, socket, sys
from pathlib import Path
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import vivit.evaluation.score, vivit.training.train

def gloo_threads():
    return sum(name.read_text() == "pt_gloo_runloop\\n" for name in Path("/proc/self/task").glob("*/comm"))

def destroy(*arguments):
    found["wrapped networks"] = sum(type(thing) is DistributedDataParallel for thing in gc.get_objects())
    found["threads"] = gloo_threads()
    destroy_process_group(*arguments)
    found["threads afterwards"] = gloo_threads()

def note():
    (folder / f"{name}-{rank}.json").write_text(json.dumps(found | {"threads at exit": gloo_threads()}))

folder, found, destroy_process_group = Path(sys.argv[1]), {}, dist.destroy_process_group
for name, arguments in json.loads(sys.argv[2]).items():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = []
    for rank in range(2):
        processes.append(os.fork())
        if not processes[-1]:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            dist.destroy_process_group = destroy
            atexit.register(note)  # the first to be registered, the last to be called
            sys.argv = ["vivit", *arguments]
            runpy.run_module("vivit", run_name="__main__")
            sys.exit()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    (folder / f"{name}.json").write_text(json.dumps(statuses))
"""
CPU = ("--device", "cpu", "--workers", "0")
TRAIN = (*CPU, "--recipe", "debug", "--epochs", "1", "--min-steps", "0", "--batch-size", "4")

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux lists them")


@pytest.fixture(scope="module")
def folder(bright_dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each command's exit statuses in NAME.json, and the notes of its ranks in NAME-0.json and NAME-1.json."""
    folder = tmp_path_factory.mktemp("ends")
    save(tiny_model({"classes": ["bright", "dark"]}, num_classes=2), folder / "model")
    train = ("train", bright_dark, *TRAIN, "--out")
    commands = {
        "trained": (*train, folder / "trained"),
        "sharded": (*train, folder / "sharded", "--shard", "--ema", "0.9"),
        "failed": (*train, folder / "failed", "--learning-rate", "1e38"),
        "evaluated": ("evaluate", bright_dark, *CPU, "--model", folder / "model", "--views", "1x1", "--split", "all"),
    }
    (folder / "watched.py").write_text(WATCHED)
    words = {name: list(map(str, arguments)) for name, arguments in commands.items()}
    subprocess.run([sys.executable, folder / "watched.py", folder, json.dumps(words)], check=True, timeout=300)
    return folder


@pytest.mark.parametrize(("command", "status"), [("trained", 0), ("sharded", 0), ("failed", 2), ("evaluated", 0)])
def test_no_process_group_outlives_a_command(folder: Path, command: str, status: int) -> None:
    """Freed after its group, a network wrapped by DDP joins gloo's threads with the GIL held, while they may need it.

    A thread that is left at exit aborts the process when it frees a tensor late.
    """
    assert json.loads((folder / f"{command}.json").read_text()) == [status, status]
    for rank in range(2):
        left = json.loads((folder / f"{command}-{rank}.json").read_text())
        assert left["threads"] > 0
        assert (left["wrapped networks"], left["threads afterwards"], left["threads at exit"]) == (0, 0, 0)
