"""python -m tools.search, interrupted or damaged, goes on to the same end or says why not."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from dance_tf.files import read_json
from dance_tf.run import reporting, terminal
from tools import flags as common
from tools import search

pytestmark = pytest.mark.usefixtures("module_without_tracing")

#: A search of seconds: one step an epoch, and two retraining steps.
QUICK = (
    "--preset=tiny",
    "--set=search.epochs=6",
    "--set=search.warmup_epochs=2",
    "--set=search.batch_size=1000",
    "--set=retrain.batch_size=500",
    "--noexport",
)


@pytest.fixture(scope="module")
def call(cache_dir):
    def call(*arguments):
        arguments = ["search", f"--cache_dir={cache_dir}", *QUICK, *arguments]
        return common.call(search.main, search.FLAGS, arguments)

    return call


@pytest.fixture(scope="module")
def finished(call, tmp_path_factory):
    """Folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert call(f"--output_dir={folder}") == 0
    return folder


def _result(folder):
    result = read_json(folder / "result.json")
    del result["times"]
    return result


def test_terminated_and_resumed_it_gives_the_same_result(
    call, finished, tmp_path, capsys, monkeypatch
):
    folder, update, options = tmp_path / "run", terminal.ProgressLine.update, []
    for phase, last_step, signum in (("search", 4, signal.SIGTERM), ("retrain", 1, signal.SIGINT)):

        def interrupt(self, step, phase=phase, last_step=last_step, signum=signum, **values):
            update(self, step, **values)
            if (self._phase, step) == (phase, last_step):
                os.kill(os.getpid(), signum)

        monkeypatch.setattr(terminal.ProgressLine, "update", interrupt)
        assert call(*options, f"--output_dir={folder}") == 128 + signum
        captured = capsys.readouterr()
        assert captured.out == "" and "--resume goes on" in captured.err
        assert not (folder / "result.json").exists()
        options = ["--resume"]
    monkeypatch.undo()
    assert call(*options, f"--output_dir={folder}") == 0
    assert _result(folder) == _result(finished)
    assert (folder / "history.jsonl").read_bytes() == (finished / "history.jsonl").read_bytes()
    assert not (folder / "exports").exists()


@pytest.fixture
def unfinished(finished, tmp_path):
    """Copy of a whole run, as of a kill just before its result, and its checkpoints."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    return folder, folder / "checkpoints"


def _cut(checkpoint):
    data = checkpoint / "tensors.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])


def test_of_damaged_checkpoints_the_older_ones_lead_to_the_same_end(
    call, finished, unfinished, capsys
):
    folder, checkpoints = unfinished
    _cut(checkpoints / "step_00000006")
    assert call("--resume", f"--output_dir={folder}") == 0
    error = capsys.readouterr().err
    assert "step_00000006 is not whole" in error and "from that of step 5" in error
    assert "delete" not in error
    assert _result(folder) == _result(finished)
    for name in ("history.jsonl", "accelerator.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_progress_without_its_checkpoints_is_not_begun_anew(call, unfinished, capsys):
    folder, checkpoints = unfinished
    history = (folder / "history.jsonl").read_bytes()
    shutil.move(checkpoints, folder.parent / "kept")
    assert call("--resume", f"--output_dir={folder}") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "shows 6 steps done, but their checkpoints are gone" in error
    assert (folder / "history.jsonl").read_bytes() == history


def test_a_history_that_is_gone_is_told_of_and_changes_no_result(
    call, finished, unfinished, capsys
):
    folder, _ = unfinished
    (folder / "history.jsonl").unlink()
    assert call("--resume", f"--output_dir={folder}") == 0
    assert "history.jsonl lacks 6 lines, of steps 1 to 6" in capsys.readouterr().err
    assert _result(folder) == _result(finished)
    phases = [line["phase"] for line in reporting.read_history(folder / "history.jsonl")]
    assert phases == ["retrain"]  # whose checkpoint has its lines
