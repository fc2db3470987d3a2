"""Files are whole or not there."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vivit.errors import UserError
from vivit.files import as_json, as_text, as_weights, make_folder, write_files


def test_contents_can_be_read_back(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6).view(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    name = b"caf\xe9".decode(errors="surrogateescape")
    write_files(
        {
            tmp_path / "w.safetensors": as_weights(weights),
            tmp_path / "j.json": as_json({"klass": "日本", "n": [1, None]}),
            tmp_path / "t.txt": as_text(f"{name}\n"),
        }
    )
    found = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert json.loads((tmp_path / "j.json").read_text("utf-8")) == {"klass": "日本", "n": [1, None]}
    assert (tmp_path / "t.txt").read_bytes() == b"caf\xe9\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_if_one_file_fails_the_old_ones_stay(tmp_path: Path) -> None:
    old = {tmp_path / "one": "old", tmp_path / "two": "old"}
    write_files({path: as_text(text) for path, text in old.items()})

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"two: not written \(No space left on device\)"):
        write_files({tmp_path / "one": as_text("new"), tmp_path / "two": fail})
    assert {path: path.read_text() for path in tmp_path.iterdir()} == old


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "file": interrupt})
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_mode_of_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_files({tmp_path / "w.safetensors": as_weights({"a": torch.ones(1)})})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot create this folder"):
        make_folder(tmp_path / "file")


def test_a_folder_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link", "/dev/null"):
        with pytest.raises(UserError, match=r"not written \(it is"):
            write_files({tmp_path / "good": as_text("new"), tmp_path / name: as_text("new")})
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]
