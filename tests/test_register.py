from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dlfb_lab import register


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLFB_REGISTER", str(tmp_path / "state" / "stores"))
    return tmp_path / "state" / "stores"


def test_a_store_that_was_noted_is_found_under_its_key(tmp_path: Path) -> None:
    assert register.stores() == {}
    register.note(tmp_path / "runs")
    assert register.stores() == {register.key(tmp_path / "runs"): tmp_path / "runs"}, "whether or not it is there"


def test_a_key_is_16_hexadecimal_digits_that_no_two_stores_share() -> None:
    keys = {register.key(Path(f"/runs/{n}")) for n in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)
    assert register.key(Path("/runs/1")) in keys, "the same one each time"


@pytest.mark.parametrize("name", ["läufe", "a b", "quote\"d'", "new\nline", "名前", "x" * 200])
def test_any_name_of_a_store_comes_back(tmp_path: Path, name: str) -> None:
    register.note(tmp_path / name)
    assert list(register.stores().values()) == [tmp_path / name]


def test_noting_a_store_again_writes_nothing(folder: Path, tmp_path: Path) -> None:
    register.note(tmp_path / "runs")
    (file,) = folder.iterdir()
    os.utime(file, (1, 1))
    register.note(tmp_path / "runs")
    assert file.stat().st_mtime == 1
    assert list(folder.iterdir()) == [file], "no file is left over from writing"


def test_the_register_is_the_users_own(folder: Path, tmp_path: Path) -> None:
    register.note(tmp_path / "runs")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_many_kernels_note_stores_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dlfb_lab import register\n"
        "for n in range(20): register.note(Path(sys.argv[1]) / str(n % 5))\n"
    )
    kernels = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [kernel.wait() for kernel in kernels] == [0, 0, 0]
    threads = [threading.Thread(target=register.note, args=(tmp_path / str(n % 5),)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in register.stores().values()) == ["0", "1", "2", "3", "4"]


def test_a_forgotten_store_is_gone_and_its_folder_is_not(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    store.mkdir()
    register.note(store)
    register.note(tmp_path / "other")
    register.forget(register.key(store))
    assert list(register.stores().values()) == [tmp_path / "other"]
    assert store.is_dir()
    register.forget(register.key(store))


@pytest.mark.parametrize("key", ["", "..", "../../secret", "0" * 16, "*"])
def test_forgetting_what_was_never_noted_deletes_nothing(folder: Path, tmp_path: Path, key: str) -> None:
    register.note(tmp_path / "runs")
    (tmp_path / "secret.json").write_text("{}")
    (folder.parent.parent / "secret.json").write_text("{}")
    register.forget(key)
    assert len(register.stores()) == 1
    assert (tmp_path / "secret.json").exists()


def test_what_is_damaged_or_moved_is_left_out(folder: Path, tmp_path: Path) -> None:
    register.note(tmp_path / "runs")
    key = register.key(Path("/elsewhere"))
    for name, text in {
        "a.json": "",
        "b.json": "{",
        "c.json": "[]",
        "d.json": '{"store": 3}',
        "e.json": '{"other": "/x"}',
        f"{key}.json": json.dumps({"store": "/not/that"}),
        f"{register.key(Path('relative'))}.json": json.dumps({"store": "relative"}),
        f"{register.key(Path('/x'))}.txt": json.dumps({"store": "/x"}),
    }.items():
        (folder / name).write_text(text)
    (folder / "f.json").write_bytes(b"\xff\xfe")
    (folder / "g.json").mkdir()
    assert list(register.stores().values()) == [tmp_path / "runs"]


def test_without_an_environment_variable_it_is_where_the_platform_keeps_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DLFB_REGISTER")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in register.folder().parents
    assert "dlfb-lab" in str(register.folder())


def test_a_register_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path, folder: Path) -> None:
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file where a folder should be")
    with pytest.raises(OSError):
        register.note(tmp_path / "runs")
    assert register.stores() == {}


def test_a_damaged_entry_is_written_anew(tmp_path: Path, folder: Path) -> None:
    register.note(tmp_path / "runs")
    (entry,) = folder.iterdir()
    entry.write_text("")
    assert register.stores() == {}
    register.note(tmp_path / "runs")
    assert list(register.stores().values()) == [tmp_path / "runs"]


def test_a_user_without_a_home_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLFB_REGISTER")
    monkeypatch.setattr("platformdirs.user_state_path", lambda _: Path("~/state"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="no home folder"):
        register.note(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
