"""python -m tools.retrain: a trained network, an orderly end, one line for a mistake."""

import json
import os
import shutil
import signal

import pytest

from dance_tf.config import config_to_json, override
from dance_tf.export import networks, tflite
from dance_tf.files import read_json, write_json
from dance_tf.presets import preset
from dance_tf.run import reporting, terminal
from tools import flags as common
from tools import retrain

OPS = ["mbconv3_e3", "zero"]
QUICK = ("--preset=tiny", "--set=retrain.epochs=2", "--ops=mbconv3_e3, zero")


def _call(*arguments):
    return common.call(retrain.main, retrain.FLAGS, ["retrain", *arguments])


@pytest.fixture(scope="module")
def retrained(tmp_path_factory):
    """Folder of an uninterrupted retraining, without exports."""
    folder = tmp_path_factory.mktemp("retrained") / "run"
    assert _call(*QUICK, "--noexport", f"--output_dir={folder}") == 0
    return folder


def test_architecture_of_a_search_is_trained_and_exported(tmp_path, capsys):
    search = tmp_path / "search"
    search.mkdir()
    config = override(preset("tiny"), ["retrain.epochs=1", "seed=3"])
    write_json(search / "config.json", config_to_json(config))
    record = {"space": "tiny_mbconv", "ops": OPS}
    write_json(search / "result.json", {"schema_version": 1, "architecture": record})
    folder = tmp_path / "retrained"
    assert _call(f"--result={search}", f"--output_dir={folder}") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report == read_json(folder / "retrain.json")
    assert report["architecture"] == record and report["seed"] == 3
    assert report["accuracy"]["split"] == "test"
    assert report["accuracy"]["num_images"] == 359
    assert report["exports"]["tflite"]["top1_agreement"] >= 0.99
    assert report["int8_accuracy"]["float_value"] == report["accuracy"]["value"]
    classifier = tflite.TFLiteClassifier(folder / "exports" / "network.tflite")
    network = networks.load_network(str(folder / "exports" / "network.keras"))
    assert network.count_params() == report["num_parameters"]
    assert classifier.path.endswith("network.tflite")
    assert "retrain 100%" in captured.err
    info = read_json(folder / "run_info.json")
    assert info["seed"] == 3 and info["is_deterministic"] is True and info["wall_time_s"] > 0


def test_interrupted_and_resumed_ends_as_uninterrupted(retrained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    update = terminal.ProgressLine.update

    def interrupt(self, step, **values):
        update(self, step, **values)
        if step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(terminal.ProgressLine, "update", interrupt)
        status = _call(*QUICK, "--noexport", f"--output_dir={folder}")
    assert status == 128 + signal.SIGTERM
    captured = capsys.readouterr()
    assert "SIGTERM: --resume goes on" in captured.err and captured.out == ""
    assert not (folder / "retrain.json").exists()

    assert _call("--resume", "--noexport", f"--output_dir={folder}") == 0
    expected = read_json(retrained / "retrain.json")
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["accuracy"] == expected["accuracy"]
    history = [reporting.read_history(f / "history.jsonl") for f in (folder, retrained)]
    assert history[0] == history[1] and len(history[0]) == 2
    assert _call("--resume", "--set=retrain.epochs=3", f"--output_dir={folder}") == 1
    assert "retrain.epochs = 2" in capsys.readouterr().err
    # A finished one needs its checkpoints no more; what is to do still does.
    shutil.rmtree(folder / "checkpoints")
    assert _call("--resume", "--noexport", f"--output_dir={folder}") == 0
    captured = capsys.readouterr()
    assert "nothing is left to do" in captured.err and json.loads(captured.out) == resumed
    assert _call("--resume", f"--output_dir={folder}") == 1
    assert "steps done, but their checkpoints are gone" in capsys.readouterr().err


def test_of_damaged_checkpoints_the_older_one_leads_to_the_same_end(retrained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(retrained, folder)
    (folder / "retrain.json").unlink()
    newest = max((folder / "checkpoints" / "retrain").iterdir())
    data = newest / "tensors.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    (folder / "history.jsonl").unlink()
    assert _call("--resume", "--noexport", f"--output_dir={folder}") == 0
    assert f"{newest.name} is not whole" in capsys.readouterr().err
    reports = [read_json(f / "retrain.json") for f in (folder, retrained)]
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert (folder / "history.jsonl").read_bytes() == (retrained / "history.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--output_dir is missing"),
        (["--output_dir={out}"], "give one of --result and --ops"),
        (["--output_dir={out}", "--ops=zero", "--result=x"], "give one of --result and --ops"),
        (["--output_dir={out}", "--preset=tiny", "--ops=mbconv3_e4,zero"], "did you mean"),
        (["--output_dir={out}", "--preset=tiny", "--ops=zero,zero"], "not allowed at block 0"),
        (["--output_dir={out}", "--preset=tiny", "--ops=mbconv3_e3"], "has 2 blocks"),
        (["--output_dir={out}", "--result={tmp}"], "result.json: no such file"),
        (["--output_dir={out}", "--result={tmp}/other.json"], "no architecture"),
        (["--output_dir={out}", "--resume"], "no architecture.json"),
        (["--output_dir={out}", "--resume", "--ops=zero"], "leave out --result and --ops"),
        (
            ["--output_dir={out}", *QUICK, "--set=retrain.initial_weights=inherited"],
            "needs a trained supernet",
        ),
        (["--output_dir={tmp}", *QUICK], "is not empty"),
        (["--output_dir={tmp}/other.json", *QUICK], "is a file"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path, capsys, arguments, says):
    (tmp_path / "other.json").write_text('{"architecture": []}')
    names = {"tmp": tmp_path, "out": tmp_path / "out"}
    assert _call(*(argument.format(**names) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err and captured.err.count("\n") == 1
    assert os.listdir(tmp_path) == ["other.json"]
