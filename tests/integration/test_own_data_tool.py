"""python -m tools.search on images of somebody's own, with another number of classes."""

from __future__ import annotations

import pathlib

import pytest
import tensorflow_datasets as tfds

from dance_tf.files import read_json, write_json
from tests.data import toy_datasets
from tools import flags as common
from tools import search

QUICK = (
    "--preset=tiny",
    "--evaluator=auto",
    "--set=search.epochs=3",
    "--set=search.batch_size=96",
    "--set=search.gumbel_temperature=2",
    "--set=retrain.batch_size=96",
    "--noexport",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("own")
    tfds.disable_progress_bar()
    for name in ("ToyOwn", "ToySensor"):
        getattr(toy_datasets, name)(data_dir=folder).download_and_prepare()
    return folder


def _search(*arguments: str) -> int:
    return common.call(search.main, search.FLAGS, ["search", *arguments])


def test_a_run_says_which_evaluator_it_took_and_what_is_odd_about_the_data(
    without_tracing, data_dir, cache_dir, tmp_path, capsys
):
    arguments = [*QUICK, f"--data_dir={data_dir}", "--dataset=toy_sensor"]
    arguments += [f"--cache_dir={cache_dir}", f"--output_dir={tmp_path}/run"]
    assert _search(*arguments) == 0
    says = capsys.readouterr().err
    result = read_json(tmp_path / "run" / "result.json")
    reason = "no neural evaluator is shipped for space tiny_mbconv"
    assert (result["evaluator"], result["evaluator_reason"]) == ("exact", reason)
    assert f"evaluator: exact, as {reason}\n" in says
    for part in ("'bird'", "200 to 2660", "search.gumbel_temperature has no effect"):
        (warning,) = (w for w in result["warnings"] if part in w)
        assert says.count(f"warning: {warning}\n") == 1
    info = read_json(tmp_path / "run" / "run_info.json")
    assert info["num_classes"] == 4 and info["evaluator"] == "exact"
    assert info["input"]["source_range"] == [200.0, 2660.0]
    assert info["input"]["class_names"] == ["cat", "dog", "bird", "fish"]

    # A run is gone on with as it began.
    (tmp_path / "run" / "result.json").unlink()
    changed = {**info, "input": {**info["input"], "source_range": [0.0, 65535.0]}}
    for before, part in (({**info, "evaluator": "neural"}, "evaluator"), (changed, "source_range")):
        write_json(tmp_path / "run" / "run_info.json", before)
        assert _search(*arguments, "--resume") == 1
        assert f"began with {part}" in capsys.readouterr().err.replace("input.", "")


def test_a_named_evaluator_that_does_not_fit_is_refused_before_the_table(
    data_dir, tmp_path, capsys
):
    arguments = ["--preset=digits", "--dataset=toy_own", f"--data_dir={data_dir}"]
    arguments += [f"--cache_dir={tmp_path}/cache", f"--output_dir={tmp_path}/run"]
    assert _search(*arguments, "--evaluator=neural") == 1
    says = capsys.readouterr().err
    assert "num_classes differ" in says and "cost table" not in says
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_embedded_digits_is_refused(data_dir, tmp_path, capsys):
    arguments = ["--preset=digits", f"--data_dir={data_dir}", f"--output_dir={tmp_path}/run"]
    assert _search(*arguments) == 1
    says = capsys.readouterr().err
    assert "data.data_dir has no effect" in says and "--dataset" in says
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_four_classes_half_of_them_grey_go_through_the_default_search(
    data_dir, cache_dir, tmp_path
):
    arguments = ["--preset=digits", "--dataset=toy_own", f"--data_dir={data_dir}"]
    assert _search(*arguments, f"--output_dir={tmp_path}/run") == 0
    result = read_json(tmp_path / "run" / "result.json")
    assert result["evaluator"] == "exact" and "num_classes differ" in result["evaluator_reason"]
    assert result["accuracy"]["num_images"] == 80 and result["accuracy"]["value"] > 0.9
    assert (tmp_path / "run" / "exports" / "network_int8.tflite").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
