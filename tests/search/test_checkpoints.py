"""Checkpoints are whole or absent, and a damaged one is refused in one line."""

import os
import resource

import pytest
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.search.checkpoints import CheckpointFolder


@pytest.fixture
def variable():
    return tf.Variable(tf.range(100.0))


@pytest.fixture
def folder(tmp_path, variable):
    return CheckpointFolder(str(tmp_path / "checkpoints"), variable=variable)


def test_the_newest_is_restored_with_its_state(folder, variable):
    assert folder.restore() is None
    folder.save(3, {"sums": {"a": [0.1, 2]}})
    variable.assign_add(tf.ones(100))
    folder.save(5, {"sums": {}})
    variable.assign(tf.zeros(100))
    assert folder.restore() == (5, {"sums": {}})
    assert variable.numpy().tolist() == [i + 1.0 for i in range(100)]


def test_old_ones_and_the_remains_of_a_kill_are_dropped(folder, tmp_path):
    folder.save(1, {})
    remains = tmp_path / "checkpoints" / ".partial_00000002"
    remains.mkdir()
    (remains / "tensors.index").write_bytes(b"half")
    assert folder.steps() == [1]
    for step in (2, 3):
        folder.save(step, {})
    assert folder.steps() == [2, 3]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "state", "empty_state"])
def test_a_damaged_checkpoint_ends_in_one_line(folder, variable, tmp_path, damage):
    folder.save(1, {})
    variable.assign(tf.zeros(100))
    folder.save(2, {})
    newest = tmp_path / "checkpoints" / "step_00000002"
    data = newest / "tensors.data-00000-of-00001"
    if damage == "truncated":
        data.write_bytes(data.read_bytes()[:-7])
    elif damage == "altered":
        data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    elif damage == "missing":
        data.unlink()
    elif damage == "state":
        (newest / "state.json").write_text('{"step": 2, "fi')
    else:
        (newest / "state.json").write_text("{}")
    variable.assign(tf.ones(100))
    with pytest.raises(UserError, match="delete that folder") as caught:
        folder.restore()
    assert "\n" not in str(caught.value) and "step_00000002" in str(caught.value)
    assert variable.numpy().tolist() == [1.0] * 100
    # The advice works.
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert folder.restore()[0] == 1


def test_a_checkpoint_of_another_network_is_refused(folder, tmp_path):
    folder.save(1, {})
    for others in (
        {"variable": tf.Variable(tf.zeros(7))},
        {"variable": tf.Variable(tf.zeros(100)), "more": tf.Variable(0.0)},
    ):
        with pytest.raises(UserError, match="does not fit") as caught:
            CheckpointFolder(str(tmp_path / "checkpoints"), **others).restore()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["exp[1]", "back\\slash", "star*"])
def test_a_folder_whose_name_is_a_pattern_holds_checkpoints(name, variable, tmp_path):
    folder = CheckpointFolder(str(tmp_path / name / "checkpoints"), variable=variable)
    folder.save(3, {})
    variable.assign(tf.zeros(100))
    assert folder.restore() == (3, {})
    assert variable.numpy().tolist() == [float(i) for i in range(100)]


@pytest.mark.parametrize("name", ["run", "exp[1]"])
def test_a_full_disk_is_an_error_of_the_folder_and_loses_nothing(name, tmp_path):
    big = tf.Variable(tf.ones(20_000))
    path = str(tmp_path / name)
    folder = CheckpointFolder(path, big=big)
    folder.save(1, {})
    big.assign_add(tf.ones(20_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            folder.save(2, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == path
    assert folder.restore() == (1, {})
    folder.save(2, {})
    assert sorted(os.listdir(path)) == ["step_00000001", "step_00000002"]
