"""python -m tools.search on images of somebody's own, with another number of classes."""

from __future__ import annotations

import pathlib
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from dance_tf.files import read_json, write_json
from dance_tf.supernet.space_files import space_data
from tests.data import toy_datasets
from tests.data.own_files import write_folder, write_image
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


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Folder of 200 PNG files of scikit-learn's digits, a folder to each class."""
    folder = tmp_path_factory.mktemp("digits")
    bunch = load_digits()
    for index in range(200):
        pixels = (bunch.images[index] * 15).astype(np.uint8)
        write_image(folder / f"digit {bunch.target[index]}" / f"{index}.png", pixels)
    return folder


def test_a_folder_of_images_is_searched_in_one_command(digits_folder, cache_dir, tmp_path, capsys):
    arguments = ["--preset=quick", f"--cache_dir={cache_dir}", f"--output_dir={tmp_path}/run"]
    (digits_folder / ".DS_Store").touch()
    arguments += ["--export_preprocessing"]
    assert _search(*arguments, f"--data={digits_folder}") == 0
    says = capsys.readouterr().err
    run = tmp_path / "run"
    result, names = read_json(run / "result.json"), [f"digit {digit}" for digit in range(10)]
    assert result["accuracy"]["num_images"] == 40 and result["accuracy"]["value"] > 0.15
    assert says.count("skipped 1 that are no PNG") == 1 and "skipped 1" in result["warnings"][0]
    assert read_json(run / "exports/export.json")["class_names"] == names
    labels = zipfile.ZipFile(run / "exports/network.tflite").read("labels.txt").decode()
    assert labels.split("\n")[:10] == names
    page = (run / "report.html").read_text()
    assert f"on {digits_folder.name}" in page
    assert (run / "exports/saved_model_with_preprocessing/saved_model.pb").is_file()

    # Gone on with as it began, wherever it lies, and on nothing else.
    moved = tmp_path / "moved"
    shutil.copytree(digits_folder, moved)
    arguments += [f"--data={moved}", "--resume"]
    assert _search(*arguments) == 0
    (run / "result.json").unlink()
    (moved / "digit 3/3.png").rename(moved / "digit 4/3.png")
    assert _search(*arguments) == 1
    assert "the data have changed" in capsys.readouterr().err


def _other_kinds(folder: pathlib.Path, data_dir: pathlib.Path) -> dict[str, list[str]]:
    bunch = load_digits()
    np.savez(folder / "own.npz", x=bunch.images[:200], y=bunch.target[:200])
    write_folder(folder / "images", {"a": 20, "b": 20})
    rows = [f"images/{name}/{index}.png,{name}" for name in "ab" for index in range(20)]
    (folder / "own.csv").write_text("\n".join(["path,label", *rows]))
    return {
        "npz": [f"--data={folder}/own.npz"],
        "csv": [f"--data={folder}/own.csv"],
        "builder": ["--data=tests.data.toy_datasets.ToyOwn", f"--data_dir={data_dir}"],
    }


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("npz", list("0123456789")),
        ("csv", ["a", "b"]),
        ("builder", ["cat", "dog", "bird", "fish"]),
    ],
)
def test_other_kinds_of_data_are_named_by_the_same_flag(
    data_dir, cache_dir, tmp_path, kind, classes
):
    arguments = ["--preset=tiny", "--fixed_architecture=mbconv3_e3,zero", "--noretrain"]
    arguments += [f"--cache_dir={cache_dir}", f"--output_dir={tmp_path}/run"]
    assert _search(*arguments, *_other_kinds(tmp_path, data_dir)[kind]) == 0
    info = read_json(tmp_path / "run" / "run_info.json")
    assert info["input"]["class_names"] == classes and info["num_classes"] == len(classes)


def test_series_and_wide_images_go_through_a_search(without_tracing, cache_dir, tmp_path, capsys):
    space = space_data("tiny_mbconv")
    write_json(tmp_path / "series.json", {**space, "name": "s", "input_shape": [32, 2]})
    write_json(tmp_path / "wide.json", {**space, "name": "w", "input_shape": [8, 16, 3]})
    labels = np.arange(120) % 3
    phase = 0.3 * np.arange(32) * (1 + labels[:, None])
    series = np.stack([np.sin(phase), np.cos(phase)], -1)
    np.savez(tmp_path / "own.npz", x=series, y=np.array(["slow", "mid", "fast"])[labels])
    write_folder(tmp_path / "images", {"train/a": 40, "train/b": 60, "test/a": 10, "test/b": 10})
    for name, data, shape, classes in (
        ("series", "own.npz", [32, 1, 2], ["fast", "mid", "slow"]),
        ("wide", "images", [8, 16, 3], ["a", "b"]),
    ):
        run = tmp_path / name
        arguments = ["--preset=tiny", "--set=search.batch_size=16", "--set=retrain.batch_size=64"]
        arguments += ["--noexport", "--set=hardware.accelerators.rf_bytes=[64]"]
        arguments += [f"--set=hardware.accelerators.pe_{axis}=[8]" for axis in "xy"]
        arguments += ["--set=data.class_balance=sampling", "--set=data.crop=pad"]
        arguments += [f"--space={tmp_path}/{name}.json", f"--data={tmp_path}/{data}"]
        assert _search(*arguments, f"--cache_dir={cache_dir}", f"--output_dir={run}") == 0
        about = read_json(run / "run_info.json")["input"]
        assert [about[axis] for axis in ("height", "width", "channels")] == shape
        assert about["class_names"] == classes
        assert read_json(run / "predictions.json")["class_names"] == classes
        assert read_json(run / "result.json")["accuracy"]["num_images"] in (20, 24)

    # Series of another length than the space's.
    np.savez(tmp_path / "own.npz", x=series[:, :30], y=labels)
    arguments = [f"--space={tmp_path}/series.json", f"--data={tmp_path}/own.npz", "--preset=tiny"]
    capsys.readouterr()
    assert _search(*arguments, f"--output_dir={tmp_path}/other") == 1
    says = capsys.readouterr().err
    assert "30 steps and 2 channels, the space takes 32 and 2" in says and says.count("\n") == 1
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--data={own}", "--dataset=mnist"], "--dataset and --data both name the data"),
        (["--data={own}", "--set=data.dataset=mnist"], "data.dataset has no effect"),
        (["--data={own}", "--data_dir={own}"], "data.data_dir has no effect"),
        (["--data={own}/none"], "no such file or folder"),
        (["--dataset={own}"], "named by --data="),
        (["--data={own}"], "holds no images"),
        (["--export_preprocessing", "--noexport"], "has one only with exports"),
    ],
)
def test_mistakes_in_naming_data_write_nothing(tmp_path, capsys, arguments, part):
    own = tmp_path / "own"
    own.mkdir()
    given = [argument.format(own=own) for argument in arguments]
    assert _search("--preset=tiny", *given, f"--output_dir={tmp_path}/run") == 1
    says = capsys.readouterr().err
    assert part in says and says.count("\n") == 1
    assert list(tmp_path.iterdir()) == [own] and not list(own.iterdir())


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
