"""A folder has one owner at a time, and what an owner leaves keeps nobody out."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from dance_tf.errors import UserError
from dance_tf.run import folder_lock
from dance_tf.run.folder_lock import names_in, owned

OWNER = """
import sys, time
from dance_tf.run.folder_lock import owned
with owned(sys.argv[1]):
    print("owns", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that owns the folder `run` until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"owns\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_refused_and_told_who_is_there(other, tmp_path):
    message = f"run is in use by process {other.pid} on "
    with pytest.raises(UserError, match=message) as caught, owned(tmp_path / "run"):
        raise AssertionError
    assert "\n" not in str(caught.value)
    other.communicate(b"")
    with owned(tmp_path / "run"):
        assert names_in(tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


def test_a_killed_owner_keeps_nobody_out(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert os.listdir(tmp_path / "run")
    with owned(tmp_path / "run"):
        (tmp_path / "run" / "result").touch()
    assert os.listdir(tmp_path / "run") == ["result"]


def test_one_that_waits_has_its_turn_although_the_folder_goes(other, tmp_path, capsys):
    timer = threading.Timer(0.3, other.stdin.close)
    timer.start()
    with owned(tmp_path / "run", is_waiting=True):
        other.wait()
        with pytest.raises(UserError), _in_a_thread(owned, tmp_path / "run"):
            raise AssertionError
    (line,) = capsys.readouterr().err.splitlines()
    assert f"waiting for process {other.pid} on " in line


def _in_a_thread(context, *args):
    """Return a context manager that raises here what entering another raises in a thread."""
    caught = []

    def enter():
        try:
            with context(*args):
                pass
        except UserError as error:
            caught.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    raise caught[0]


def test_inside_it_is_owned_again_and_folders_below_have_owners_of_their_own(tmp_path):
    folder = tmp_path / "a" / "sweep"
    with owned(folder):
        with owned(folder / ".." / "sweep"), owned(folder / "searches" / "one"):
            (folder / "searches" / "one" / "result").touch()
        assert names_in(folder) == ["searches"]
        with pytest.raises(UserError):
            _in_a_thread(owned, folder)
    assert [p.name for p in folder.rglob("*")] == ["searches", "one", "result"]


def test_a_folder_left_empty_goes_with_those_made_for_it(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "note").touch()
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "note"]
    (tmp_path / "empty").mkdir()
    with owned(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys, code):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with owned(tmp_path):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} cannot be locked" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_needs_no_owner(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder_lock, "open", refuse, raising=False)
    with owned(tmp_path):
        assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_the_systems_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"), owned(tmp_path / "file" / "run"):
        raise AssertionError


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path, monkeypatch):
    def write(descriptor, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with owned(tmp_path), pytest.raises(UserError, match="in use by another process"):
        _in_a_thread(owned, tmp_path)
