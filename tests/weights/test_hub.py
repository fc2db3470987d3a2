"""Models by their id: through the Hub's cache, and to and from a small local Hub."""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from torch import Tensor
from transformers import VivitConfig, VivitForVideoClassification
from transformers.utils import logging

import vivit
from tests.support import random_weights, refused, tiny_model
from vivit.labels import Metric
from vivit.model.vivit import ViViT
from vivit.weights.store import push_to_hub, save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLIP = (1, 4, 3, 32, 32)
MALFORMED = ["a b/c", "x/y/z", "..//x", "name/", "/model", "na--me/model", "name/..", "~/model", "name/mödel"]


def ours(seed: int = 0) -> ViViT:
    return tiny_model(
        classes={"classes": ("wave", "jump", "run")},
        origin=("made for a test",),
        variant="factorised_encoder",
        num_frames=4,
        image_size=32,
        tubelet_size=(2, 16, 16),
        temporal_layers=1,
        num_classes=3,
        std=0.2,
        seed=seed,
    )


def logits(model: ViViT) -> Tensor:
    video = torch.rand(CLIP, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found = model(video)
    assert isinstance(found, Tensor)
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> VivitForVideoClassification:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = VivitConfig(
        image_size=32,
        num_frames=4,
        tubelet_size=[2, 16, 16],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        id2label={0: "wave", 1: "jump", 2: "run"},
        label2id={"wave": 0, "jump": 1, "run": 2},
    )
    model = VivitForVideoClassification(config).eval()
    return random_weights(model, std=0.2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, without login or connection."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder


def put(cache: Path, repo_id: str, folder: Path) -> None:
    """Put a folder's files into the cache as huggingface_hub does."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for part in (repository / "refs", repository / "blobs", snapshot):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)


def write_pickled(model: VivitForVideoClassification, folder: Path) -> None:
    """Save a model as older versions of transformers did."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


# Through the cache.


def test_our_folder_by_its_id(tmp_path: Path, cache: Path) -> None:
    model = ours()
    save(model, tmp_path / "model")
    put(cache, "name/model", tmp_path / "model")
    loaded = vivit.load("name/model")
    close(logits(loaded), logits(model))
    assert (loaded.config, loaded.classes, loaded.origin) == (model.config, model.classes, model.origin)


def test_models_of_transformers_by_their_id(tmp_path: Path, cache: Path, theirs: VivitForVideoClassification) -> None:
    theirs.save_pretrained(tmp_path / "new")
    write_pickled(theirs, tmp_path / "old")
    video = torch.rand(CLIP) * 2 - 1
    with torch.no_grad():
        expected = theirs(video).logits
    for name in ("new", "old"):
        put(cache, f"name/{name}", tmp_path / name)
        loaded = vivit.load(f"name/{name}")
        with torch.no_grad():
            close(loaded(video), expected)
        close(logits(loaded), logits(vivit.load(tmp_path / name)))
        assert loaded.classes == {"classes": ("wave", "jump", "run")}
        # The id, which others can use, not a folder in this machine's cache.
        assert f"name/{name}" in loaded.origin[0]
        assert str(cache) not in " ".join(loaded.origin)


def test_safetensors_go_before_a_pickle(tmp_path: Path, cache: Path) -> None:
    save(ours(), tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"not looked at")
    put(cache, "name/model", tmp_path / "model")
    close(logits(vivit.load("name/model")), logits(ours()))


def test_predictor_takes_an_id(tmp_path: Path, cache: Path, bright_dark: Path) -> None:
    save(ours(), tmp_path / "model")
    put(cache, "name/model", tmp_path / "model")
    video = bright_dark / "bright" / "bright0.mp4"
    by_id = vivit.Predictor("name/model", device="cpu").predict(video)
    assert by_id == vivit.Predictor(tmp_path / "model", device="cpu").predict(video)


def test_a_local_folder_goes_before_an_id(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(ours(seed=1), tmp_path / "cached")
    put(cache, "name/model", tmp_path / "cached")
    monkeypatch.chdir(tmp_path)
    close(logits(vivit.load("name/model")), logits(ours(seed=1)))
    save(ours(seed=2), tmp_path / "name" / "model")
    close(logits(vivit.load("name/model")), logits(ours(seed=2)))


def test_id_that_is_not_in_the_cache_is_refused_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits for a Hub that it must not ask"))
    refused(lambda: vivit.load("name/model"), "name/model", "Hub")
    assert not cache.exists()


@pytest.mark.parametrize("source", [*MALFORMED, "name/" + "a" * 200, "a" * 5000, "https://huggingface.co/name/model"])
def test_malformed_id_is_refused(cache: Path, source: str) -> None:
    refused(lambda: vivit.load(source), re.escape(source[:100]))


def test_repository_without_a_whole_model_is_refused(tmp_path: Path, cache: Path) -> None:
    save(ours(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    put(cache, "name/half", tmp_path / "model")
    refused(lambda: vivit.load("name/half"), "model.safetensors")


# A local Hub.

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]] | None


class Hub:
    """The part of the Hub's interface that uploading and downloading a model needs."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.answers: dict[str, Answer] = {}
        """Part of a path → a wrong answer to give there; None breaks the connection."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.get(self)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                hub.post(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self) -> set[str]:
        """Requests for the content of files."""
        return {line.rsplit("/", 1)[1] for line in self.asked if line.startswith("GET") and "/resolve/" in line}

    def say(self, to: BaseHTTPRequestHandler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        to.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            to.send_header(name, text)
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(content)

    def told_otherwise(self, to: BaseHTTPRequestHandler) -> bool:
        self.asked.append(f"{to.command} {to.path.split('?')[0]}")
        for part, answer in self.answers.items():
            if part in to.path:
                if answer is None:
                    to.close_connection = True
                    to.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self.say(to, *answer)
                return True
        return False

    def get(self, to: BaseHTTPRequestHandler) -> None:
        if self.told_otherwise(to):
            return
        parts = to.path.split("?")[0].split("/")[1:]
        if parts[0] == "api":  # /api/models/name/model/…
            files = self.repositories.get("/".join(parts[2:4]))
            if files is None:
                self.say(to, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif "tree" in parts:
                listed = [{"type": "file", "path": name, "size": len(content)} for name, content in files.items()]
                oids = (hashlib.sha1(content).hexdigest() for content in files.values())
                self.say(to, 200, [{**file, "oid": oid} for file, oid in zip(listed, oids, strict=True)])
            else:
                siblings = [{"rfilename": name} for name in files]
                self.say(to, 200, {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings})
            return
        content = self.repositories["/".join(parts[:2])].get("/".join(parts[4:]))  # /name/model/resolve/COMMIT/file
        if content is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self.say(to, 404, {"error": "Entry not found"}, missing)
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.say(to, 200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def post(self, to: BaseHTTPRequestHandler, body: bytes) -> None:
        self.tokens.add(to.headers["Authorization"])
        if self.told_otherwise(to):
            return
        parts = to.path.split("?")[0].split("/")[1:]
        if to.path == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            repo_id = f"{asked['organization'] or 'myself'}/{asked['name']}"
            status = 409 if repo_id in self.repositories else 200
            self.repositories.setdefault(repo_id, {})
            self.say(to, status, {"url": f"{self.address}/{repo_id}"})
        elif to.path == "/api/validate-yaml":
            self.say(to, 200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.say(to, 200, {"files": [{**file, "shouldIgnore": False} for file in files]})
        else:
            repo_id = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[repo_id][line["value"]["path"]] = content
            self.say(to, 200, {"commitUrl": f"{self.address}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT})


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.close()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which must be empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pushed_model_comes_back(hub: Hub, temporary: Path, tmp_path: Path) -> None:
    model = ours()
    about: dict[str, Any] = {"licence": "mit", "data": "clips of a test", "scores": {Metric(("classes",), 1): 0.5}}
    address = push_to_hub(model, "name/gestures", private=True, token="hf_secret", **about)
    assert address == f"{hub.address}/name/gestures"
    files = hub.repositories["name/gestures"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    # A single commit, so that nobody can fetch half a model.
    assert sum("/commit/" in line for line in hub.asked) == 1
    assert [(asked["organization"], asked["name"], asked["visibility"]) for asked in hub.created] == [
        ("name", "gestures", "private")
    ]
    assert hub.tokens == {"Bearer hf_secret"}
    assert list(temporary.iterdir()) == []

    # The repository holds what `save` writes, with a card of that name.
    save(model, tmp_path / "gestures", **about)
    written = files_of(tmp_path / "gestures")
    assert {name: files[name] for name in ("config.json", "model.safetensors")} == {
        name: written[name] for name in ("config.json", "model.safetensors")
    }
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict()["license"] == "mit"
    assert re.search(r"^# (name/)?gestures$", card.text, re.MULTILINE)
    assert "clips of a test" in card.text

    loaded = vivit.load("name/gestures")
    close(logits(loaded), logits(model))
    assert (loaded.config, loaded.classes, loaded.origin) == (model.config, model.classes, model.origin)


def test_the_card_of_a_pushed_model_names_its_id(hub: Hub, cache: Path) -> None:
    push_to_hub(ours(), "name/gestures")
    # The commands in the card work for its readers.
    card = hub.repositories["name/gestures"]["README.md"].decode()
    assert "--model name/gestures" in card
    assert 'vivit.load("name/gestures")' in card


def test_pushing_again_replaces_the_model(hub: Hub) -> None:
    push_to_hub(ours(seed=1), "name/model")
    push_to_hub(ours(seed=2), "name/model")
    close(logits(vivit.load("name/model")), logits(ours(seed=2)))


def test_a_card_written_by_hand_on_the_hub_stays(hub: Hub) -> None:
    push_to_hub(ours(seed=1), "name/model")
    hub.repositories["name/model"]["README.md"] = b"# Mine"
    push_to_hub(ours(seed=2), "name/model", licence="mit")
    assert hub.repositories["name/model"]["README.md"] == b"# Mine"
    close(logits(vivit.load("name/model")), logits(ours(seed=2)))


def test_an_id_without_an_owner_is_ones_own(hub: Hub) -> None:
    assert push_to_hub(ours(), "model") == f"{hub.address}/myself/model"
    close(logits(vivit.load("myself/model")), logits(ours()))


def test_only_what_is_needed_is_fetched_and_only_once(
    hub: Hub, tmp_path: Path, theirs: VivitForVideoClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs.save_pretrained(tmp_path / "new")
    write_pickled(theirs, tmp_path / "old")
    other = {"optimizer.pt": b"-", "tf_model.h5": b"-", "README.md": b"-", "run/events.1": b"-"}
    hub.repositories["name/both"] = files_of(tmp_path / "new") | files_of(tmp_path / "old") | other
    hub.repositories["name/old"] = files_of(tmp_path / "old") | other
    expected = logits(vivit.load(tmp_path / "new"))

    close(logits(vivit.load("name/both")), expected)
    assert hub.fetched() == {"config.json", "model.safetensors"}
    hub.asked.clear()
    close(logits(vivit.load("name/old")), expected)
    assert hub.fetched() == {"config.json", "pytorch_model.bin"}
    # From now on, neither the Hub's files nor the Hub are needed.
    hub.asked.clear()
    vivit.load("name/both")
    vivit.load("name/old")
    assert hub.fetched() == set()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("both", "old"):
        close(logits(vivit.load(f"name/{name}")), expected)


def test_what_was_fetched_serves_when_the_hub_is_gone(hub: Hub) -> None:
    push_to_hub(ours(), "name/model")
    vivit.load("name/model")
    for status in (500, 403, 401):
        hub.answers["/api/"] = (status, {})
        close(logits(vivit.load("name/model")), logits(ours()))
    hub.close()
    close(logits(vivit.load("name/model")), logits(ours()))


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model name/model is restricted."}
PORTAL = b"<html>Welcome to our wireless network</html>"


@pytest.mark.parametrize(
    "answer",
    [(401, {}), (403, {"error": "no"}), (403, {}, GATED), (404, {}), (500, {}), (200, PORTAL), None],
    ids=["401", "403", "gated", "404", "500", "portal", "broken"],
)
def test_loading_from_a_hub_that_refuses_is_refused(hub: Hub, cache: Path, answer: Answer) -> None:
    hub.answers["name/model"] = answer
    refused(lambda: vivit.load("name/model"), "name/model")


def test_a_gated_model_is_not_said_to_be_missing(hub: Hub) -> None:
    hub.answers["name/model"] = (403, {}, GATED)
    message = refused(lambda: vivit.load("name/model"), "name/model")
    assert "neither" not in message
    assert "cannot be reached" not in message


def test_loading_what_is_not_on_the_hub_is_refused(hub: Hub) -> None:
    message = refused(lambda: vivit.load("name/missing"), "name/missing")
    # The Hub was reached, and the message says so.
    assert "cannot be reached" not in message
    hub.repositories["name/text"] = {"README.md": b"no model", "data.csv": b"1"}
    refused(lambda: vivit.load("name/text"), "name/text")


def test_loading_from_nowhere_is_refused(hub: Hub) -> None:
    hub.close()
    refused(lambda: vivit.load("name/model"), "name/model", "cannot be reached")


@pytest.mark.parametrize("part", ["/repos/create", "/preupload/", "/commit/"])
@pytest.mark.parametrize("status", [401, 403])
def test_pushing_without_access_is_refused(hub: Hub, temporary: Path, part: str, status: int) -> None:
    reason = "You don't have the rights to write to name/model."
    hub.answers[part] = (status, {"error": reason}, {"X-Error-Message": reason})
    message = refused(lambda: push_to_hub(ours(), "name/model"), "name/model", "not pushed")
    assert reason in message
    assert list(temporary.iterdir()) == []
    assert "model.safetensors" not in hub.repositories.get("name/model", {})


@pytest.mark.parametrize("answer", [(500, {}), (200, PORTAL), None], ids=["500", "portal", "broken"])
def test_pushing_to_a_hub_that_fails_is_refused(hub: Hub, temporary: Path, answer: Answer) -> None:
    hub.answers["/repos/create"] = answer
    refused(lambda: push_to_hub(ours(), "name/model"), "name/model", "not pushed")
    assert list(temporary.iterdir()) == []


def test_pushing_a_card_that_the_hub_does_not_take_is_refused(hub: Hub, temporary: Path) -> None:
    reason = '"license" must be one of apache-2.0, mit'
    hub.answers["/validate-yaml"] = (400, {"errors": [{"message": reason}], "warnings": []})
    refused(lambda: push_to_hub(ours(), "name/model", licence="whatever"), "name/model", reason)
    assert list(temporary.iterdir()) == []


def test_pushing_to_nowhere_is_refused(hub: Hub, temporary: Path) -> None:
    hub.close()
    refused(lambda: push_to_hub(ours(), "name/model"), "name/model", "not pushed")
    assert list(temporary.iterdir()) == []


def test_pushing_offline_is_refused_at_once(cache: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits for a Hub that it must not ask"))
    refused(lambda: push_to_hub(ours(), "name/model"), "name/model", "offline")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("repo_id", [*MALFORMED, "", "..", "../..", "name/" + "a" * 200, "name/mo\0del"])
def test_pushing_to_a_malformed_id_is_one_line_and_leaves_nothing(hub: Hub, temporary: Path, repo_id: str) -> None:
    message = refused(lambda: push_to_hub(ours(), repo_id), re.escape(repo_id.replace("\0", "\\x00")))
    assert "id" in message
    assert str(temporary) not in message
    assert hub.created == []
    assert list(temporary.iterdir()) == []


def test_a_model_that_cannot_be_written_is_not_pushed(
    hub: Hub, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any, path: str | os.PathLike[str], **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vivit.files.save_file", full)
    refused(lambda: push_to_hub(ours(), "name/model"), "No space left")
    assert hub.asked == []
    assert list(temporary.iterdir()) == []
