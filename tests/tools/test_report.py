"""The command line report: one line for a folder that is no finished run."""

from __future__ import annotations

import pytest

from dance_tf.config import config_to_json
from dance_tf.files import write_json
from dance_tf.presets import preset
from tools import flags as common
from tools import report


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--run_dir is missing"),
        (["--run_dir={tmp}/nowhere"], "nowhere: no such folder"),
        (["--run_dir={tmp}/a file"], "a file: no such folder"),
        (["--run_dir={tmp}"], "no config.json, so it is not the folder of a run"),
        (["--run_dir={tmp}/begun"], "no result.json yet: finish it with --resume"),
        (["--run_dir={tmp}/broken"], "result.json: not JSON"),
        (["--run_dir={tmp}", "--baseline_dir={tmp}/nowhere"], "--baseline_dir="),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path, capsys, arguments, says):
    (tmp_path / "a file").write_text("mine")
    for name in ("begun", "broken"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", config_to_json(preset("tiny")))
    (tmp_path / "broken" / "result.json").write_text('{"schema_version"')
    before = sorted(tmp_path.rglob("*"))
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert common.call(report.main, report.FLAGS, ["report", *given]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("report: ") and says in captured.err
    assert sorted(tmp_path.rglob("*")) == before
