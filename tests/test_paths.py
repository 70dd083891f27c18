"""Paths that users give, and those that TensorFlow reads as patterns."""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import tempfile

import pytest
import tensorflow as tf

from dance_tf import files
from dance_tf.config import DataConfig, EvaluatorConfig, HardwareConfig, SpaceConfig
from dance_tf.data.datasets import load_images
from dance_tf.data.prepared import resolve_data_dir
from dance_tf.errors import UserError
from dance_tf.evaluator.loading import check_evaluator
from dance_tf.export.serving import ServedModel
from dance_tf.export.tflite import convert_to_tflite
from dance_tf.files import local_path, naming_path, pattern_free
from dance_tf.hardware.cost_table import default_cache_dir
from dance_tf.hardware.measured import MeasuredCostModel
from dance_tf.hardware.technology import technology
from dance_tf.report.run_folder import read_run
from dance_tf.run import reporting, terminal
from dance_tf.search.supernet_training import read_supernet_record
from dance_tf.supernet.space_files import make_space

#: Not a path of any machine, with a word of the reason.
NO_PATHS = {
    "gs://bucket/run": "local",
    "s3a+x://bucket/run": "local",
    "file:///data/run": "local",
    "~no_such_user_here/run": "no such user",
    '"/data/x y"': "quote",
    "'runs/a'": "quote",
    "\N{LEFT DOUBLE QUOTATION MARK}runs/a\N{RIGHT DOUBLE QUOTATION MARK}": "quote",
    "$HOME/run": "variable",
    "${HOME}/run": "variable",
    "runs/a\nb": "printed",
    "runs/\udcff": "printed",
    "runs/a\0b": "printed",
}

#: Of folders, most of which TensorFlow reads as patterns.
NAMES = ["exp[1]", "back\\slash", "star*", "what?", "open[", "shut]", "{1,2}", "a b"]


@pytest.mark.parametrize(("path", "reason"), NO_PATHS.items())
def test_what_is_no_path_of_this_machine_is_refused(path: str, reason: str):
    with pytest.raises(UserError, match=reason) as caught:
        local_path(path, "--output_dir")
    assert str(caught.value).startswith("--output_dir ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["a:b/c", "gs:/bucket", "x/~me", "it's", "1$", "a$b", "[1]", "\N{SNOWMAN}", "a b", "#1"]
)
def test_odd_names_are_names(path: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert local_path(path, "") == str(tmp_path / path)
    assert local_path(pathlib.Path(path), "") == str(tmp_path / path)


def test_a_home_is_expanded_and_must_be_known(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs", "") == str(tmp_path / "runs")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UserError, match="HOME is not set"):
        local_path("~/runs", "")


def test_a_link_to_nowhere_is_refused_and_one_to_a_folder_is_not(tmp_path: pathlib.Path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder")
    for path in (link, link / "inside" / "it"):
        with pytest.raises(UserError, match="folder, which is not there"):
            local_path(path, "--output_dir")
    (tmp_path / "folder").mkdir()
    assert local_path(link / "inside", "") == str(link / "inside")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(UserError, match="not there"):
        local_path(tmp_path / "round", "--output_dir")


def test_a_deleted_working_directory_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="working directory, which has been deleted"):
        local_path("runs", "--cache_dir")
    assert local_path(tmp_path, "") == str(tmp_path)


#: Every use of a path that is no flag of its own, or a field of the configuration.
USERS = {
    "data.data_dir": resolve_data_dir,
    "data.path": lambda path: load_images(DataConfig(path=path), input_size=8),
    "evaluator.path": lambda path: check_evaluator(
        EvaluatorConfig(path=path), make_space(SpaceConfig()), HardwareConfig()
    ),
    "hardware.machine.technology": lambda path: technology(f"{path}.json"),
    "hardware.measured_csv": MeasuredCostModel,
    "run folder": read_run,
    "search.supernet_dir": lambda path: read_supernet_record(path, *[None] * 3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("user", USERS)
def test_each_field_that_is_a_path_is_checked(user: str):
    for path in ("gs://bucket/x", '"quoted'):
        with pytest.raises(UserError, match=r"local one|begins with a quote"):
            USERS[user](path)


def test_the_default_cache_is_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "$HOME/cache")
    with pytest.raises(UserError, match="--cache_dir"):
        default_cache_dir()


@pytest.mark.parametrize("name", NAMES)
def test_another_name_has_no_pattern_and_leads_to_the_same_folder(name: str, tmp_path):
    folder = tmp_path / name / "inside"
    with pattern_free(folder) as plain:
        assert not set(plain) & set("*?[\\")
        folder.mkdir(parents=True)
        pathlib.Path(plain, "file").write_text("content")
    assert (folder / "file").read_text() == "content"
    assert plain == str(folder) or not os.path.lexists(plain)


def test_a_folder_for_temporary_files_may_be_a_pattern_too(tmp_path, monkeypatch):
    (tmp_path / "exp[1]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "exp[1]"))
    with pattern_free(tmp_path / "exp[1]") as plain:
        assert "[" not in plain


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads_and_converts_in_any_folder(name: str, tmp_path: pathlib.Path):
    module = tf.Module()
    module.scale = tf.Variable(3.0)
    specs = [tf.TensorSpec([None, 2], tf.float32, name="x")]
    module.scaled = tf.function(lambda x: {"y": x * module.scale}, input_signature=specs)
    path = tmp_path / name / "saved"
    tf.saved_model.save(module, str(path), signatures=module.scaled)
    assert ServedModel(path)(x=[[1.0, 2.0]])["y"].tolist() == [[3.0, 6.0]]
    if name == "exp[1]":
        assert convert_to_tflite(str(path))


def test_a_saved_model_that_is_missing_is_named_as_the_user_did(tmp_path: pathlib.Path):
    folder = tmp_path / "exp[1]"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(UserError) as caught:
        ServedModel(folder)
    assert str(caught.value).startswith(f"{folder}: cannot load")


class _Error(Exception):
    """An error as TensorFlow words it, without TensorFlow."""


_Error.__module__ = "tensorflow.errors"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        _Error("/runs/a/tensors.data; No space left on device"),
        _Error("{{function_node x}} /runs/a;b; No space left on device [Op:SaveV2] name: "),
    ],
)
def test_an_error_of_the_system_gets_the_path(error: Exception):
    with pytest.raises(OSError, match="No space left") as caught, naming_path("/runs/a"):
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/runs/a")


@pytest.mark.parametrize(
    "error",
    [
        UserError("a; No space left on device"),
        _Error("OOM when allocating tensor with shape[1]"),
        OSError("no number"),
        OSError(errno.EACCES, "denied", "/its own"),
        KeyError("; No space left on device"),
    ],
)
def test_other_errors_stay_as_they_are(error: Exception):
    with pytest.raises(type(error)) as caught, naming_path("/runs/a"):
        raise error
    assert caught.value is error


def test_writers_name_the_file_that_has_no_room(tmp_path: pathlib.Path):
    path, limits = tmp_path / "history.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with reporting.HistoryWriter(path) as history:
        history.write({"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(OSError) as caught:
                files.write_json(tmp_path / "big.json", ["x" * 9999])
            assert caught.value.filename == str(tmp_path / "big.json")
            with pytest.raises(OSError) as caught:
                history.write({"step": 2, "text": "x" * 9999})
            assert caught.value.filename == str(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["history.jsonl"]
    with reporting.HistoryWriter(path, resume_step=1) as history:  # The line cut short is gone.
        history.write({"step": 2})
    assert [record["step"] for record in reporting.read_history(path)] == [1, 2]


def test_progress_goes_on_where_its_log_has_no_room():
    with open("/dev/full", "w") as full:
        line = terminal.ProgressLine("search", 2, stream=full)
        line.update(1)
        line.update(2)
        line.close()
        with pytest.raises(OSError):
            full.write("x" * 99999)
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
