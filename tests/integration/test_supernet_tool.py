"""python -m tools.train_supernet, and the searches that start from what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from dance_tf.config import config_from_json
from dance_tf.files import read_json
from dance_tf.run import reporting, terminal
from tools import flags as common
from tools import search, train_supernet

#: One step an epoch.
TRAIN = (
    "--preset=tiny",
    "--supernet=superkernel",
    "--set=search.batch_size=1000",
    "--set=search.epochs=2",
)
SEARCH = (*TRAIN, "--noretrain")


pytestmark = pytest.mark.usefixtures("module_without_tracing")


def train(*arguments):
    arguments = ["train_supernet", *arguments]
    return common.call(train_supernet.main, train_supernet.FLAGS, arguments)


@pytest.fixture(scope="module")
def call(cache_dir):
    """Call the search."""

    def call(*arguments):
        arguments = ["search", *arguments, f"--cache_dir={cache_dir}"]
        return common.call(search.main, search.FLAGS, arguments)

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a finished training."""
    folder = tmp_path_factory.mktemp("trained") / "my supernet"
    assert train(*TRAIN, f"--output_dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def searched(call, trained, tmp_path_factory):
    """Folder of a search from it."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    assert call(*SEARCH, f"--supernet_dir={trained}", f"--output_dir={folder}") == 0
    return folder


def _snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} | {
        path: None for path in sorted(folder.rglob("*")) if path.is_dir()
    }


def _record(folder):
    record = read_json(folder / "supernet.json")
    assert record.pop("train_s") > 0
    return record


def test_a_training_leaves_everything(trained):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.json",
        "history.jsonl",
        "run_info.json",
        "supernet.json",
        "weights",
    }
    record = _record(trained)
    assert record["kind"] == "superkernel" and record["num_steps"] == 2 and record["seed"] == 0
    assert record["space"]["name"] == "tiny_mbconv" and record["data"]["name"] == "digits"
    values = record["accuracy"]["values"]
    assert len(values) == len(record["accuracy"]["networks"]) and all(0 <= v <= 1 for v in values)
    assert [line["step"] for line in reporting.read_history(trained / "history.jsonl")] == [1, 2]
    info = read_json(trained / "run_info.json")
    assert info["is_deterministic"] is True and info["wall_time_s"] > 0


def test_a_search_starts_from_it_and_says_from_which(trained, searched):
    history = reporting.read_history(searched / "history.jsonl")
    # The warm-up's step is left out, and so are its records.
    assert [(line["step"], line["phase"]) for line in history] == [(2, "search")]
    assert read_json(searched / "result.json")["num_weight_steps"] == 1
    config = config_from_json(read_json(searched / "config.json"))
    assert config.search.supernet_dir == str(trained)
    info = read_json(searched / "run_info.json")
    assert info["supernet_sha256"] == _record(trained)["weights_sha256"]


def test_terminated_and_resumed_it_leaves_the_same_supernet(trained, tmp_path, capsys, monkeypatch):
    folder, update = tmp_path / "run", terminal.ProgressLine.update

    def interrupt(self, step, **values):
        update(self, step, **values)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(terminal.ProgressLine, "update", interrupt)
    assert train(*TRAIN, f"--output_dir={folder}") == 128 + signal.SIGTERM
    captured = capsys.readouterr()
    assert captured.out == "" and "--resume goes on from here" in captured.err
    assert not (folder / "supernet.json").exists() and not (folder / "weights").exists()
    monkeypatch.undo()
    assert train(*TRAIN, "--resume", f"--output_dir={folder}") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("output_dir") == str(folder)
    assert printed == read_json(folder / "supernet.json")
    # The weights are the same too: the record has their hash.
    assert _record(folder) == _record(trained)
    assert (folder / "history.jsonl").read_bytes() == (trained / "history.jsonl").read_bytes()
    # A finished training stays what it is.
    assert train(*TRAIN, "--resume", f"--output_dir={folder}") == 0
    assert json.loads(capsys.readouterr().out) == {"output_dir": str(folder), **printed}


def test_a_finished_training_needs_no_checkpoints_and_makes_lost_weights_again(
    trained, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (data,) = folder.glob("weights/*/tensors.data*")
    data.unlink()
    assert train(*TRAIN, "--resume", f"--output_dir={folder}") == 0
    captured = capsys.readouterr()
    assert "tensors.data-00000-of-00001 is missing: made again" in captured.err
    # Searches began from these very weights.
    assert _record(folder) == _record(trained)
    assert data.read_bytes() == (trained / data.relative_to(folder)).read_bytes()
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "history.jsonl").read_bytes()
    assert train(*TRAIN, "--resume", f"--output_dir={folder}") == 0
    assert "nothing is left to do" in capsys.readouterr().err
    data.unlink()
    assert train(*TRAIN, "--resume", f"--output_dir={folder}") == 1
    error = capsys.readouterr().err.splitlines()
    assert "is missing: made again" in error[0] and "shows 2 steps done" in error[1]
    assert (folder / "history.jsonl").read_bytes() == before


def test_of_damaged_checkpoints_the_older_one_leads_to_the_same_supernet(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "supernet.json").unlink()
    shutil.rmtree(folder / "weights")
    data = folder / "checkpoints" / "step_00000002" / "tensors.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    assert train(*TRAIN, "--resume", f"--output_dir={folder}") == 0
    assert "going on from that of step 1" in capsys.readouterr().err
    assert _record(folder) == _record(trained)
    assert (folder / "history.jsonl").read_bytes() == (trained / "history.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*TRAIN], "--output_dir is missing"),
        (["--output_dir={out}", "--preset=tinny"], "did you mean 'tiny'"),
        (["--output_dir={out}", *TRAIN, "--dataset=digit"], "did you mean 'digits'"),
        (["--output_dir={out}", *TRAIN, "--set=space.num_classes=4"], "has 10 classes"),
        (["--output_dir={old}", *TRAIN], "is not empty: add --resume"),
        (["--output_dir={old}", *TRAIN, "--resume", "--seed=1"], "seed = 0, this run 1"),
        (["--output_dir={tmp}", *TRAIN, "--resume"], "no config.json"),
    ],
)
def test_mistakes_in_training_end_in_one_line(trained, tmp_path, capsys, arguments, says):
    (tmp_path / "a file").write_text("mine")
    before = _snapshot(tmp_path), _snapshot(trained)
    names = {"tmp": tmp_path, "out": tmp_path / "out", "old": trained}
    assert train(*(argument.format(**names) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and says in captured.err and captured.err.count("\n") == 1
    assert (_snapshot(tmp_path), _snapshot(trained)) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--supernet_dir={tmp}"], "has no supernet.json"),
        (["--supernet_dir={tmp}/none"], "has no supernet.json"),
        (["--supernet=proxyless"], "of another kind: superkernel, this search has proxyless"),
        (["--set=space.width_multiplier=2.0"], "of another space: "),
        (["--space=cifar_mbconv_small"], "of another space: name tiny_mbconv"),
        (["--set=data.architecture_fraction=0.3"], "of another data: "),
    ],
)
def test_a_supernet_that_does_not_fit_is_refused(call, trained, tmp_path, capsys, changes, says):
    before = _snapshot(trained)
    arguments = [*SEARCH, f"--supernet_dir={trained}", f"--output_dir={tmp_path / 'run'}"]
    assert call(*arguments, *(change.format(tmp=tmp_path) for change in changes)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and says in captured.err and captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir()) and _snapshot(trained) == before


def _truncate(folder):
    (path,) = folder.glob("weights/*/tensors.data*")
    path.write_bytes(path.read_bytes()[:1000])


def _alter(folder):
    (path,) = folder.glob("weights/*/tensors.data*")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))


def _alter_record(folder):
    path = folder / "supernet.json"
    path.write_text(path.read_text().replace(_record(folder)["weights_sha256"], "0" * 64))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, "1000 bytes instead of"),
        (_alter, "checksum"),
        (_alter_record, "not those that supernet.json is of"),
        (lambda folder: shutil.rmtree(folder / "weights"), "the weights are missing"),
        (lambda folder: (folder / "supernet.json").write_text('{"schema'), "not JSON"),
        (lambda folder: (folder / "supernet.json").write_text("[]"), "not a supernet's record"),
    ],
)
def test_a_damaged_supernet_is_refused(call, trained, tmp_path, capsys, damage, says):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    damage(folder)
    assert call(*SEARCH, f"--supernet_dir={folder}", f"--output_dir={tmp_path / 'run'}") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and says in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_search_goes_on_from_the_weights_it_began_with_only(
    call, trained, searched, tmp_path, capsys
):
    run, kept = tmp_path / "run", tmp_path / "kept"
    shutil.copytree(searched, run)
    (run / "result.json").unlink()  # as of a search that was killed just before
    before = _snapshot(run)
    arguments = (*SEARCH, f"--supernet_dir={trained}", f"--output_dir={run}", "--resume")
    trained.rename(kept)
    try:
        assert train(*TRAIN, "--seed=1", f"--output_dir={trained}") == 0
        capsys.readouterr()
        assert call(*arguments) == 1
    finally:
        shutil.rmtree(trained)
        kept.rename(trained)
    captured = capsys.readouterr()
    assert captured.out == "" and "had other weights" in captured.err
    assert captured.err.count("\n") == 1 and _snapshot(run) == before
    assert call(*arguments) == 0
    for name in ("history.jsonl", "accelerator.json"):
        assert (run / name).read_bytes() == (searched / name).read_bytes()
