"""`.ci/environment` makes the environment once, in any path, or says what is missing."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from tests.repo.source import ROOT


def _clone(parent: pathlib.Path) -> pathlib.Path:
    """Return a folder with spaces that holds what the script reads, and asks for nothing."""
    folder = parent / "a clone of mine"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/environment", folder / ".ci/environment")
    shutil.copy(ROOT / "Makefile", folder / "Makefile")
    (folder / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    for name in ("dance_tf", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture
def clone(tmp_path: pathlib.Path) -> pathlib.Path:
    """A clone without an environment."""
    return _clone(tmp_path)


@pytest.fixture(scope="module")
def ready_clone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A clone in which the environment has been made."""
    folder = _clone(tmp_path_factory.mktemp("ready"))
    status, lines = _run(folder, PYTHON=sys.executable)
    assert status == 0 and any("making .venv" in line for line in lines)
    return folder


def _program(folder: pathlib.Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def _run(clone: pathlib.Path, **environment: str) -> tuple[int, list[str]]:
    """Return status and the lines on stderr."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "PIP_INDEX_URL")}
    done = subprocess.run(
        ["sh", ".ci/environment", "requirements.txt"],
        cwd=clone,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def _path_without_python(clone: pathlib.Path) -> str:
    """Return a PATH that has what a shell script needs and no Python."""
    folder = clone.parent / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("sh", "cat", "cksum", "dirname", "basename", "awk", "df", "grep", "head", "tail"):
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_second_time_does_nothing_and_a_change_installs_again(ready_clone: pathlib.Path):
    clone = ready_clone
    assert _run(clone, PYTHON=sys.executable) == (0, [])
    assert _run(clone) == (0, [])
    (clone / "requirements.txt").write_text("# nothing, said otherwise\n", encoding="utf-8")
    status, lines = _run(clone, PYTHON=sys.executable)
    assert status == 0 and len(lines) == 1 and "installing" in lines[0]
    done = subprocess.run([clone / ".venv/bin/python", "-c", "import pip"], check=False)
    assert done.returncode == 0


def test_the_package_alone_is_found_from_any_folder(
    ready_clone: pathlib.Path, tmp_path: pathlib.Path
):
    user = tmp_path / "elsewhere"
    user.mkdir()
    (user / "tools.py").write_text("raise SystemExit('a file of the user')\n", encoding="utf-8")

    def ask(*command: str, folder: pathlib.Path = user) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        words = [ready_clone / ".venv/bin" / program, *arguments]
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)

    imported = ask("python", "-c", "import dance_tf; print(dance_tf.preset('tiny').space.name)")
    assert (imported.stdout, imported.stderr) == ("tiny_mbconv\n", "")
    listed = ask("dance-tf")
    assert listed.returncode == 0 and "dance-tf search --preset=quick" in listed.stdout
    assert str(ready_clone / "saved_models") in listed.stdout
    assert ask("dance-tf", folder=ready_clone).stdout.count("python -m tools.") == 2
    (user / "tools.py").unlink()
    assert "No module named 'tools'" in ask("python", "-c", "import tools").stderr
    module = ask("python", "-m", "dance_tf", "no-such-tool")
    assert module.returncode == 2 and module.stderr.count("\n") == 1


def test_no_python_is_one_line(clone: pathlib.Path):
    status, lines = _run(clone, PATH=_path_without_python(clone))
    assert status == 1 and len(lines) == 1
    assert "python3 is missing" in lines[0]
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("version", ["3.9", "3.14", "2.7"])
def test_python_without_wheels_is_one_line(clone: pathlib.Path, version: str):
    path = _path_without_python(clone)
    _program(pathlib.Path(path), "python3", f"echo {version}\n")
    status, lines = _run(clone, PATH=path)
    assert status == 1 and len(lines) == 1
    assert f"python3 is {version}" in lines[0] and "3.10 to 3.13" in lines[0]
    status, lines = _run(clone, PATH=path, PYTHON="python3")
    assert status == 1 and len(lines) == 1 and version in lines[0]


def test_named_python_that_is_none_is_one_line(clone: pathlib.Path):
    status, lines = _run(clone, PYTHON="no-such-python")
    assert (status, len(lines)) == (1, 1) and "no-such-python" in lines[0]


def test_python_without_venv_is_one_line(clone: pathlib.Path):
    path = _path_without_python(clone)
    no_venv = 'case "$*" in *venv*) exit 1 ;; *) echo 3.11 ;; esac\n'
    _program(pathlib.Path(path), "python3", no_venv)
    status, lines = _run(clone, PATH=path)
    assert status == 1 and len(lines) == 1
    assert "python3-venv" in lines[0]


def test_full_disk_is_one_line(clone: pathlib.Path):
    path = clone.parent / "little"
    header = "Filesystem 1024-blocks Used Available Capacity Mounted"
    _program(path, "df", f"printf '{header}\\n/dev/x 9 9 1024000 9%% /\\n'\n")
    status, lines = _run(clone, PATH=f"{path}:{os.environ['PATH']}", PYTHON=sys.executable)
    assert status == 1 and len(lines) == 1
    assert "1000 MB are free" in lines[0]


def test_no_package_index_is_one_line_and_is_tried_again(clone: pathlib.Path):
    (clone / "requirements.txt").write_text("no-such-distribution>=1\n", encoding="utf-8")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    status, lines = _run(clone, PYTHON=sys.executable, **nowhere)
    assert status == 1
    assert "no package index answers" in lines[-1]
    assert len(lines) == 3  # making, installing, and the one that says what is missing
    assert not list((clone / ".venv").glob("installed-*"))
    (clone / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    assert _run(clone, PYTHON=sys.executable)[0] == 0


def test_make_stops_where_the_environment_cannot_be_made(clone: pathlib.Path):
    # As a user would: not as a child of the make that runs the tests.
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    for target in ("search", "test"):
        done = subprocess.run(
            ["make", target],
            cwd=clone,
            env={**outside, "PYTHON": "no-such-python"},
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0
        assert done.stdout == ""
        assert "no-such-python is not a program" in done.stderr.splitlines()[0]
