"""Arrays on disk: whole, checked, built in parts, by processes that die or race."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.hardware import table_store
from dance_tf.hardware.table_store import build_in_parts, read_arrays, write_arrays
from dance_tf.run import folder_lock

FACTS = {"of": ["a test", (1, 2)], "size": 1.5}
ARRAYS = {
    "costs": np.asarray([[1.0, np.inf], [3.0, 4.0]], np.float32),
    "codes": np.arange(-3, 3, dtype=np.int8).reshape(2, 3).T,
}
NUM_PARTS = 9

#: A builder to kill or to race with: folder, log of the parts it computes, pause, locks.
BUILDER = """
import pathlib, sys, time
import numpy as np
from dance_tf.run import folder_lock
from dance_tf.hardware import table_store

folder, log, pause_s, use_lock = sys.argv[1:]
if not int(use_lock):
    folder_lock.fcntl = None

def compute(part):
    with open(log, "a") as file:
        file.write(f"{part}\\n")
    time.sleep(float(pause_s))
    return {"values": np.arange(part * 1000, part * 1000 + 1000, dtype=np.float64)}

def assemble(parts):
    return {"values": np.concatenate([part["values"] for part in parts]).astype(np.float32)}

table_store.build_in_parts(
    pathlib.Path(folder) / "table", {"kind": "numbers"}, num_parts=9, compute=compute,
    assemble=assemble,
)
"""


def _builder(folder, log, *, pause_s=0.0, use_lock=True) -> subprocess.Popen:
    arguments = [folder, log, pause_s, int(use_lock)]
    return subprocess.Popen([sys.executable, "-c", BUILDER, *map(str, arguments)])


def _files(path: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def _computed(log: pathlib.Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """Return the files of a build that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert _builder(folder, folder / "log").wait() == 0
    assert _computed(folder / "log") == list(range(NUM_PARTS))
    assert sorted(path.name for path in folder.iterdir()) == ["log", "table"]
    return _files(folder / "table")


@pytest.fixture
def written(tmp_path) -> pathlib.Path:
    path = tmp_path / "a table"
    write_arrays(path, ARRAYS, FACTS, scratch=tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())
    return path


def test_arrays_come_back_memory_mapped(written):
    arrays = read_arrays(written, FACTS)
    assert set(arrays) == set(ARRAYS)
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert isinstance(array.base, np.memmap) and not array.flags.writeable
    header = json.loads((written / "header.json").read_text())
    assert header["of"] == ["a test", [1, 2]] and set(header["sha256"]) == set(ARRAYS)
    assert read_arrays(written.with_name("another"), FACTS) is None


def test_what_is_there_stays(written, tmp_path):
    before = _files(written)
    write_arrays(written, {"costs": np.zeros(3)}, FACTS, scratch=tmp_path)
    assert _files(written) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a table", "scratch"]


def test_every_damaged_bit_is_noticed(written):
    rng = np.random.default_rng(3)
    for file in sorted(written.iterdir()):
        whole = file.read_bytes()
        changes = [b"", b"not a table\n", whole[:-1], whole + b"\0"]
        for position in rng.choice(len(whole), min(60, len(whole)), replace=False):
            changed = bytearray(whole)
            changed[position] ^= 1 << int(rng.integers(8))
            changes.append(bytes(changed))
        for content in changes:
            file.write_bytes(content)
            try:
                arrays = read_arrays(written, FACTS)
            except UserError as error:
                message = str(error)
                assert str(written) in message and "delete it to build it anew" in message
                assert file.name in message and "\n" not in message
            else:  # a blank between the words of the header
                assert file.name == "header.json"
                assert json.loads(content) == json.loads(whole)
                np.testing.assert_array_equal(arrays["costs"], ARRAYS["costs"])
        file.write_bytes(whole)
        assert read_arrays(written, FACTS) is not None


def test_files_that_are_missing_too_many_or_of_something_else(written):
    with pytest.raises(UserError, match=r"header\.json is of something else"):
        read_arrays(written, {**FACTS, "size": 1.25})
    np.save(written / "more.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"corrupted \(more\.npy does not fit"):
        read_arrays(written, FACTS)
    (written / "more.npy").unlink()
    (written / "costs.npy").unlink()
    with pytest.raises(UserError, match=r"costs\.npy, which .* is missing"):
        read_arrays(written, FACTS)
    (written / "header.json").write_text("[]")
    with pytest.raises(UserError, match="something else"):
        read_arrays(written, FACTS)
    (written / "header.json").unlink()
    with pytest.raises(UserError, match=r"header\.json is missing"):
        read_arrays(written, FACTS)
    shutil.rmtree(written)
    written.write_text("a file")
    with pytest.raises(UserError, match="corrupted"):
        read_arrays(written, FACTS)


def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path, undisturbed):
    """SIGKILL while a part is computed, again and again; no finished part is lost."""
    log = tmp_path / "log"
    for num_started in (1, 4, 7):
        builder = _builder(tmp_path, log, pause_s=0.05)
        while len(_computed(log)) < num_started:
            assert builder.poll() is None
            time.sleep(0.005)
        builder.send_signal(signal.SIGKILL)
        assert builder.wait() == -signal.SIGKILL
        assert not (tmp_path / "table").exists()
        *_, last = _computed(log)
        finished = [int(p.name[5:]) for p in (tmp_path / "table.building").glob("part_????")]
        assert sorted(finished) in (list(range(last)), list(range(last + 1)))
    # What a kill in the middle of writing leaves is not taken for a part.
    (tmp_path / "table.building" / "part_0008.1234.partial").mkdir()
    shutil.rmtree(tmp_path / "table.building" / "part_0001")
    damaged = tmp_path / "table.building" / "part_0000" / "values.npy"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    before = len(_computed(log))
    assert _builder(tmp_path, log).wait() == 0
    assert _files(tmp_path / "table") == undisturbed
    missing = [part for part in range(NUM_PARTS) if part not in finished]
    assert _computed(log)[before:] == [0, 1, *missing]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "table"]


@pytest.mark.parametrize("use_lock", [True, False])
def test_builders_at_the_same_time_do_not_corrupt_it(tmp_path, undisturbed, use_lock):
    log = tmp_path / "log"
    builders = [_builder(tmp_path, log, pause_s=0.02, use_lock=use_lock) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert _files(tmp_path / "table") == undisturbed
    if use_lock:  # the work is done once
        assert sorted(_computed(log)) == list(range(NUM_PARTS))


def _numbers(path: pathlib.Path, compute, on_progress=lambda done: None) -> bool:
    return build_in_parts(
        path,
        FACTS,
        num_parts=3,
        compute=compute,
        assemble=lambda parts: {"values": np.concatenate([part["values"] for part in parts])},
        on_progress=on_progress,
    )


def test_who_waits_sees_the_progress_of_who_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_POLL_S", 0.005)
    may_go_on, path, seen = threading.Semaphore(0), tmp_path / "table", []

    def compute(part):
        assert may_go_on.acquire(timeout=30)
        return {"values": np.full(2, part)}

    first = threading.Thread(target=_numbers, args=(path, compute))
    first.start()
    while not (tmp_path / "table.building" / ".lock").exists():
        time.sleep(0.005)
    time.sleep(0.05)

    def watch(done):
        seen.append(done)
        if seen.count(done) == 3:
            may_go_on.release()

    assert not _numbers(path, pytest.fail, watch)
    first.join()
    assert seen == sorted(seen) and {0, 1, 2} <= set(seen) <= {0, 1, 2, 3}
    assert read_arrays(path, FACTS)["values"].tolist() == [0, 0, 1, 1, 2, 2]


def test_progress_begins_with_what_is_there(tmp_path):
    def stopped(part):
        if part == 2:
            raise KeyboardInterrupt
        return {"values": np.full(2, part)}

    seen = []
    with pytest.raises(KeyboardInterrupt):
        _numbers(tmp_path / "table", stopped, seen.append)
    assert seen == [1, 2]
    seen.clear()
    assert _numbers(tmp_path / "table", lambda part: {"values": np.full(2, part)}, seen.append)
    assert seen == [2, 3]


def test_a_mistake_of_the_user_leaves_nothing(tmp_path):
    def refuse(part):
        if part == 1:
            raise UserError("no")
        return {"values": np.zeros(2)}

    with pytest.raises(UserError, match="no"):
        _numbers(tmp_path / "cache" / "table", refuse)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("folder", ["/proc/no_such_folder", "dangling", "gone"])
def test_an_error_that_lasts_ends_the_tries(tmp_path, folder):
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "table.building").mkdir()
    (tmp_path / "dangling" / "table.building" / ".lock").symlink_to("/proc/no_such_folder/lock")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing" / "here")
    with pytest.raises(UserError, match=r"\((No such|File exists).*name another with --cache_dir"):
        _numbers(tmp_path / folder / "table", pytest.fail)


def test_what_may_not_be_read_is_not_called_corrupted(tmp_path, monkeypatch):
    write_arrays(tmp_path / "table", ARRAYS, FACTS, scratch=tmp_path)

    def refuse(path, encoding):
        raise PermissionError(13, os.strerror(13), path)

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        read_arrays(tmp_path / "table", FACTS)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the table cache"):
        _numbers(tmp_path / "file" / "table", pytest.fail)

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(table_store.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        _numbers(tmp_path / "table", lambda part: {"values": np.zeros(2)})
    assert not (tmp_path / "table").exists()
    assert not (tmp_path / "table.building").exists()
