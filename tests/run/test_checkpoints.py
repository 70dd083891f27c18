"""Checkpoints are whole or absent; of several, the newest whole one is used."""

import json
import os
import resource

import pytest
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.run.checkpoints import CheckpointFolder, check_history


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


def damage(folder, how):
    """Make a checkpoint other than whole."""
    data, state = folder / "tensors.data-00000-of-00001", folder / "state.json"
    if how == "cut by a byte":
        data.write_bytes(data.read_bytes()[:-1])
    elif how == "altered":
        data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    elif how == "half a state":
        state.write_text('{"step": 2, "fi')
    elif how == "empty state":
        state.write_text("{}")
    else:
        (folder / how).unlink()


@pytest.mark.parametrize(
    "how",
    ["cut by a byte", "altered", "half a state", "empty state", "tensors.index", "state.json"],
)
def test_one_that_is_not_whole_is_passed_over(folder, variable, tmp_path, capsys, how):
    folder.save(1, {"a": 1})
    variable.assign(tf.zeros(100))
    folder.save(2, {"a": 2})
    newest = tmp_path / "checkpoints" / "step_00000002"
    damage(newest, how)
    variable.assign(tf.ones(100))
    assert folder.restore() == (1, {"a": 1})
    assert variable.numpy().tolist() == list(range(100))
    (line,) = capsys.readouterr().err.splitlines()
    assert "step_00000002" in line and "from that of step 1" in line and "delete" not in line
    # It lies there until the run has a whole one in its place.
    assert newest.is_dir()
    folder.save(2, {"a": 3})
    assert folder.restore() == (2, {"a": 3}) and folder.steps() == [1, 2]
    assert capsys.readouterr().err == ""
    assert len(os.listdir(tmp_path / "checkpoints")) == 2


def test_a_later_one_that_was_passed_over_does_not_outlive_an_earlier_save(folder, tmp_path):
    for step in (2, 4):
        folder.save(step, {})
    damage(tmp_path / "checkpoints" / "step_00000004", "altered")
    assert folder.restore()[0] == 2
    folder.save(3, {})  # As after a signal.
    assert folder.steps() == [2, 3]


def test_where_none_is_whole_nothing_is_restored_and_nothing_advised_away(
    folder, variable, tmp_path
):
    for step in (1, 2):
        folder.save(step, {})
        damage(tmp_path / "checkpoints" / f"step_0000000{step}", "altered")
    variable.assign(tf.ones(100))
    with pytest.raises(UserError, match="step_00000002 is not whole") as caught:
        folder.restore()
    assert "\n" not in str(caught.value) and "delete" not in str(caught.value)
    assert variable.numpy().tolist() == [1.0] * 100


def test_what_may_not_be_read_is_not_taken_for_damaged(folder, tmp_path):
    for step in (1, 2):
        folder.save(step, {})
    index = tmp_path / "checkpoints" / "step_00000002" / "tensors.index"
    index.unlink()
    index.mkdir()  # Root may read everything else.
    with pytest.raises(UserError, match=r"cannot read checkpoint file .*tensors.index: Is a dir"):
        folder.restore()


def test_a_checkpoint_of_another_network_is_refused(folder, tmp_path):
    folder.save(1, {})
    for others in (
        {"variable": tf.Variable(tf.zeros(7))},
        {"variable": tf.Variable(tf.zeros(100)), "more": tf.Variable(0.0)},
    ):
        with pytest.raises(UserError, match="does not fit") as caught:
            CheckpointFolder(str(tmp_path / "checkpoints"), **others).restore()
        assert "\n" not in str(caught.value)


def write_history(path, *steps, phase="search"):
    lines = [json.dumps({"step": step, "phase": phase}) + "\n" for step in steps]
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(lines)


def test_a_history_of_more_than_an_epoch_is_not_begun_anew(tmp_path):
    path, kwargs = tmp_path / "history.jsonl", {"phases": ["search"], "first_save": 10}
    check_history(str(path), None, **kwargs)
    write_history(path, 5, 10)  # A kill may have come before the save at 10.
    write_history(path, 90, phase="retrain")
    check_history(str(path), None, **kwargs)
    write_history(path, 15)
    with pytest.raises(UserError, match=r"shows 15 steps done.*take its lines of search out"):
        check_history(str(path), None, **kwargs)
    with pytest.raises(UserError, match=r"shows 90 .*move it away to begin anew"):
        check_history(str(path), None, phases=["search", "retrain"], first_save=10)
    check_history(str(path), 10, **kwargs)


def test_lines_that_a_history_lacks_are_told_of(tmp_path, capsys):
    path, kwargs = tmp_path / "history.jsonl", {"phases": ["search"], "first_save": 10}
    due = range(5, 41, 5)
    check_history(str(path), 20, due=due, **kwargs)
    assert "lacks 4 lines, of steps 5 to 20" in capsys.readouterr().err
    write_history(path, *range(5, 31, 5))
    check_history(str(path), 30, due=due, **kwargs)
    check_history(str(path), 20, due=due, **kwargs)
    assert capsys.readouterr().err == ""


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
