"""What docs/clusters.md and the files beside it say works: the batch script, the pods, and every command."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch.distributed.run
import yaml

from tests.training.runs import LONGEST, holding, let_go, rows, wait_until_held
from vivit import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clusters.md"
BATCH_SCRIPT = ROOT / "docs" / "clusters" / "train.slurm"
MANIFEST = ROOT / "docs" / "clusters" / "train.k8s.yaml"
STEPS = 12
TINY = ("--recipe", "debug", "--epochs", str(STEPS // 2), "--min-steps", "0", "--batch-size", "4", "--workers", "0")

# A torchrun that was told to stop ends when the test has sent all signals.
STOPS = 'while [ ! -e "$JOB/stop" ]; do sleep 0.05; done'
JOB_ID = os.getpid()  # from which the batch script has its port

# What a batch script asks of Slurm, on one machine. A node is a process group: Slurm, too, signals all processes of a
# step, and srun kills its tasks when it is told to end.
SLURM = {
    "scontrol": """
case "$1" in
    show) for node in $(seq "$SLURM_JOB_NUM_NODES"); do echo localhost; done ;;
    *) echo "$@" >> "$JOB/scontrol" ;;
esac""",
    "scancel": """
[ "$*" = "--signal=TERM $SLURM_JOB_ID" ] || exit 1
echo "$@" >> "$JOB/scancel"
while read -r node; do kill -TERM -- "-$node"; done < "$JOB/nodes" """,
    "srun": """
while [[ $1 == --* ]]; do shift; done
set -m
for _ in $(seq "$SLURM_JOB_NUM_NODES"); do
    "$@" &
    nodes+=("$!")
    echo "$!" >> "$JOB/nodes"
done
trap 'for node in "${nodes[@]}"; do kill -KILL -- "-$node"; done' TERM
worst=0
for node in "${nodes[@]}"; do
    wait "$node"
    status=$?
    [ "$status" -gt "$worst" ] && worst=$status
done
exit "$worst" """,
}


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that a test starts; what it leaves of them, and of their children, is ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
            process.communicate()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with the stand-ins for Slurm's commands."""
    folder = tmp_path / "job"
    (folder / "bin").mkdir(parents=True)
    for name, body in SLURM.items():
        write_command(folder, name, body)
    return folder


def write_command(job: Path, name: str, body: str) -> None:
    (job / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
    (job / "bin" / name).chmod(0o755)


def start_job(job: Path, *words: str, nodes: int, **environment: str) -> "subprocess.Popen[str]":
    """Start the batch script as Slurm does, with one process on each node."""
    (job / "nodes").write_text("")
    slurm = {"JOB_ID": JOB_ID, "JOB_NUM_NODES": nodes, "JOB_NODELIST": "n", "GPUS_ON_NODE": 1, "CPUS_PER_TASK": 1}
    return subprocess.Popen(
        ["bash", str(BATCH_SCRIPT), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **{**os.environ, "OMP_NUM_THREADS": "1", "JOB": str(job)},
            "PATH": f"{job / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            **{f"SLURM_{name}": str(value) for name, value in slurm.items()},
            **environment,
        },
    )


def wait_for_lines(file: Path, count: int) -> None:
    end = time.monotonic() + LONGEST
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < end, f"{file} does not get {count} lines"
        time.sleep(0.01)


def requeued(job: Path) -> list[str]:
    return (job / "scontrol").read_text().splitlines() if (job / "scontrol").exists() else []


def assert_went_on(run: Path, calls: int) -> None:
    """Each step was done once, and each call began where the last one ended."""
    assert [row["step"] for row in rows(run / "steps.jsonl")] == list(range(1, STEPS + 1))
    sessions = rows(run / "sessions.jsonl")
    assert len(sessions) == calls
    assert [row["first_step"] for row in sessions] == [0, *(row["last_step"] for row in sessions[:-1])]
    assert sessions[-1]["last_step"] == STEPS


def test_a_slurm_job_whose_time_is_over_stops_and_goes_on_when_requeued(
    bright_dark: Path, tmp_path: Path, job: Path, started: list["subprocess.Popen[str]"]
) -> None:
    run = tmp_path / "run"
    words = (str(bright_dark), "--out", str(run), "--device", "cpu", *TINY)
    to_script, seconds = re.findall(r"^#SBATCH --signal=B:(\w+)@(\d+)$", BATCH_SCRIPT.read_text(), re.MULTILINE)[0]
    (patience,) = re.findall(r"--shutdown-timeout (\d+)", BATCH_SCRIPT.read_text())
    assert int(patience) < int(seconds)

    first = start_job(job, *words, nodes=2, **holding(after=3, pace=0.5))
    started.append(first)
    wait_until_held(first, run)
    first.send_signal(signal.Signals[f"SIG{to_script}"])
    wait_for_lines(job / "scancel", 1)
    let_go(run)
    log, _ = first.communicate(timeout=LONGEST)
    stopped_after = len(rows(run / "steps.jsonl"))
    assert 3 <= stopped_after < STEPS, log
    assert f"vivit: stopped after step {stopped_after} of {STEPS}" in log
    assert f"vivit: process 1: stopped after step {stopped_after}" in log
    assert first.returncode == 1
    assert requeued(job) == [f"requeue incomplete {JOB_ID}"]

    # Slurm may give fewer nodes next time, where a range was asked for.
    second = start_job(job, *words, nodes=1)
    started.append(second)
    log, _ = second.communicate(timeout=LONGEST)
    assert second.returncode == 0, log
    assert f"resuming after step {stopped_after} of {STEPS}" in log
    assert len(requeued(job)) == 1
    assert_went_on(run, calls=2)
    assert [row["processes"] for row in rows(run / "sessions.jsonl")] == [2, 1]


@pytest.mark.parametrize(
    ("torchrun", "signals", "status", "again"),
    [
        ("exit 0", [], 0, False),
        ("exit 1", [], 1, False),
        # Its time is over: torchrun ends some time after its SIGTERM, with 1, or with 0 if the run was done just then.
        (f"trap '{STOPS}; exit 1' TERM", ["USR1"], 1, True),
        (f"trap '{STOPS}; exit 1' TERM", ["USR1", "USR1", "TERM"], 1, True),
        ("trap 'exit 0' TERM", ["USR1"], 0, False),
        # Cancelled: Slurm signals the nodes and the script.
        (f"trap '{STOPS}; exit 1' TERM", ["TERM", "nodes"], 1, False),
    ],
)
def test_only_a_job_that_was_told_that_its_time_is_over_is_requeued(
    job: Path, started: list["subprocess.Popen[str]"], torchrun: str, signals: list[str], status: int, again: bool
) -> None:
    waiting = 'touch "$JOB/ready-$$"; while :; do sleep 0.05; done'
    write_command(job, "torchrun", f'echo "$@" > "$JOB/words"\n{torchrun}\n{waiting}')
    process = start_job(job, "a folder", "--out", "run", nodes=2)
    started.append(process)
    while signals and not (len(list(job.glob("ready-*"))) == len((job / "nodes").read_text().split()) == 2):
        assert process.poll() is None
        time.sleep(0.01)
    for number, name in enumerate(signals, start=1):
        if name == "nodes":
            for node in (job / "nodes").read_text().split():
                os.killpg(int(node), signal.SIGTERM)
        else:
            process.send_signal(signal.Signals[f"SIG{name}"])
        if name == "USR1":
            # Bash may overlook one of two signals that come at once.
            wait_for_lines(job / "scancel", number)
    (job / "stop").touch()
    process.communicate(timeout=LONGEST)
    assert process.returncode == status
    assert requeued(job) == ([f"requeue incomplete {JOB_ID}"] if again else [])
    words = (job / "words").read_text()
    assert "--nnodes 2 --nproc-per-node 1 " in words
    assert re.search(rf"--rdzv-id {JOB_ID} --rdzv-endpoint localhost:2\d{{4}} ", words)
    assert words.endswith("-m vivit train a folder --out run\n")


def pods() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The Service, the Job, and the container of its pods."""
    service, job = yaml.safe_load_all(MANIFEST.read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return service, job, container


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command line would have done."""
    recorded: list[dict[str, Any]] = []

    def record(*_: object, **settings: Any) -> None:
        recorded.append(settings)

    def convert(*_: object, **settings: Any) -> SimpleNamespace:
        record(**settings)
        return SimpleNamespace(notes=())

    for verb in ("training.train.train", "evaluation.score.score_model", "data.pack.pack_and_tell"):
        monkeypatch.setattr(f"vivit.{verb}", record)
    monkeypatch.setattr("vivit.weights.convert.convert", convert)
    monkeypatch.setattr("vivit.report.run_page.write_report", lambda run: run / "report.html")
    return recorded


def test_what_the_kubernetes_manifest_says_in_several_places_is_the_same(calls: list[dict[str, Any]]) -> None:
    service, job, container = pods()
    template = job["spec"]["template"]["spec"]
    arguments = torch.distributed.run.parse_args(container["args"])
    name, service_name = job["metadata"]["name"], service["metadata"]["name"]

    # Pods of an indexed Job are called NAME-0, NAME-1 …, have the label job-name, and are found under the Service.
    assert job["spec"]["completionMode"] == "Indexed" and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert template["subdomain"] == service_name
    assert arguments.rdzv_endpoint.split(":")[0] == f"{name}-0.{service_name}"
    assert int(arguments.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(arguments.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    # Kubernetes refuses a podFailurePolicy with another restartPolicy.
    assert template["restartPolicy"] == "Never"
    assert arguments.shutdown_timeout < template["terminationGracePeriodSeconds"]
    volumes = [volume["name"] for volume in template["volumes"]]
    assert [mount["name"] for mount in container["volumeMounts"]] == volumes
    cli.build_app()(arguments.training_script_args)
    assert (calls[0]["workers"] + 1) * int(arguments.nproc_per_node) <= container["resources"]["requests"]["cpu"]


def start_pod(
    container: dict[str, Any], index: int, port: int, *words: str, **environment: str
) -> "subprocess.Popen[str]":
    """One pod's container with other words for `vivit train`: Kubernetes starts, and signals, its first process."""
    arguments = container["args"][: container["args"].index("train") + 1]
    changes = {"--nproc-per-node": "1", "--rdzv-endpoint": f"localhost:{port}"}
    # The name of the first pod leads there; here, where all have the same name, it has to be said who that is.
    (settings,) = (one.partition("=")[2] for one in arguments if one.startswith("--rdzv-conf="))
    changes["--rdzv-conf"] = f"{settings},is_host={int(index == 0)}"
    changed = [f"{flag}={changes[flag]}" if (flag := one.split("=")[0]) in changes else one for one in arguments]
    return subprocess.Popen(
        [str(Path(sys.executable).parent / container["command"][0]), *changed, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **{**os.environ, "OMP_NUM_THREADS": "1", "JOB_COMPLETION_INDEX": str(index)},
            **{variable["name"]: variable["value"] for variable in container["env"]},
            **environment,
        },
    )


def test_an_evicted_pod_stops_the_run_and_its_successor_lets_it_go_on(
    bright_dark: Path, tmp_path: Path, started: list["subprocess.Popen[str]"]
) -> None:
    """The pod that stays starts its process anew when the other has come back."""
    _, _, container = pods()
    run = tmp_path / "run"
    words = (str(bright_dark), "--out", str(run), "--device", "cpu", *TINY)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    started += [start_pod(container, index, port, *words, **holding(after=3, pace=0.5)) for index in (0, 1)]
    wait_until_held(started[0], run)
    started[1].terminate()
    let_go(run)
    log, _ = started[1].communicate(timeout=LONGEST)
    assert "stopped after step" in log, log
    assert started[0].poll() is None
    started.append(start_pod(container, 1, port, *words))
    for pod in (started[0], started[2]):
        log, _ = pod.communicate(timeout=LONGEST)
        assert pod.returncode == 0, log
    assert_went_on(run, calls=2)


def test_every_command_of_the_page_is_one_that_there_is(calls: list[dict[str, Any]]) -> None:
    blocks = re.findall(r"^ *```sh\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    commands = [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]
    programs = set()
    for words in commands:
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        programs.add(words[0])
        if words[0] == "torchrun":
            arguments = torch.distributed.run.parse_args(words[1:])
            assert arguments.module, words
            words = [arguments.training_script, *arguments.training_script_args]
        elif words[0] == "sbatch":
            script = next(number for number, word in enumerate(words) if word.endswith(".slurm"))
            assert ROOT / words[script] == BATCH_SCRIPT
            words = ["vivit", "train", *words[script + 1 :]]
        elif words[:3] == ["kubectl", "apply", "-f"]:
            assert ROOT / words[3] == MANIFEST
        if words[0] == "vivit":
            before = len(calls)
            cli.build_app()(words[1:])
            assert len(calls) == before + 1, words
    assert programs == {"torchrun", "vivit", "export", "sbatch", "kubectl", "wandb"}
