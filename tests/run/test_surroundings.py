"""The folder of a run: what a kill left in it, and what it is resumed with."""

from __future__ import annotations

import pytest

from dance_tf.config import config_from_json
from dance_tf.errors import UserError
from dance_tf.files import read_json
from dance_tf.presets import preset
from dance_tf.run import run_info
from dance_tf.run.surroundings import RunFolder, check_output_dir

CONFIG = preset("tiny")


def begin(folder, **facts):
    RunFolder(CONFIG, str(folder), run_info.now()).begin(facts)


def test_a_run_killed_in_its_first_moments_can_be_resumed_or_started_anew(tmp_path):
    (tmp_path / "config.json.17.partial").write_text('{"half')
    for is_resuming in (False, True):
        check_output_dir(CONFIG, str(tmp_path), is_resuming)
    begin(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "run_info.json"]
    assert config_from_json(read_json(tmp_path / "config.json")) == CONFIG
    with pytest.raises(UserError, match="is not empty"):
        check_output_dir(CONFIG, str(tmp_path), is_resuming=False)


def test_nothing_but_what_a_kill_left_is_removed(tmp_path):
    kept = {"notes.partial", "result.json", "a.json.1.partial.txt"}
    for name in (*kept, "result.json.4711.partial", "run_info.json.5.partial"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "searches").mkdir()
    (tmp_path / "searches" / "history.jsonl.5.partial").write_text("")
    begin(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == kept | {
        "searches",
        "config.json",
        "run_info.json",
    }


def test_another_number_of_threads_is_warned_of(tmp_path, monkeypatch, capsys):
    path = tmp_path / "run_info.json"
    monkeypatch.setattr(run_info, "num_threads", lambda: 4)
    for info in (None, {}, {"num_threads": 4}):  # new, of before this was noted, and the same
        if info is not None:
            run_info.write(path, info)
        begin(tmp_path)
        assert capsys.readouterr().err == ""
    run_info.write(path, {"num_threads": 2})
    begin(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "is of 2 threads, this is of 4" in line
    assert "TF_NUM_INTRAOP_THREADS=2" in line
