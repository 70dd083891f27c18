"""Folders of prepared data sets: their names, their versions and what lies in them."""

from __future__ import annotations

import hashlib
import pathlib
import types

import pytest
import tensorflow as tf

from dance_tf.data import prepared
from dance_tf.errors import UserError


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return tmp_path / "home"


def test_the_data_folder_is_expanded_once_and_the_flag_wins(home, monkeypatch):
    assert prepared.resolve_data_dir() == f"{home}/tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", "a b")
    assert prepared.resolve_data_dir() == f"{pathlib.Path.cwd()}/a b"
    assert prepared.resolve_data_dir("") == f"{pathlib.Path.cwd()}/a b"
    assert prepared.resolve_data_dir("~/my data/tfds") == f"{home}/my data/tfds"
    once = prepared.resolve_data_dir("~/my data/tfds")
    assert prepared.resolve_data_dir(once) == once
    monkeypatch.setenv("TFDS_DATA_DIR", "~/from the environment/")
    assert prepared.resolve_data_dir() == f"{home}/from the environment"


@pytest.mark.parametrize("path", ["gs://bucket/tfds", "~no_such_user_here/tfds"])
def test_folders_that_are_none_here_are_refused(path):
    with pytest.raises(UserError, match=path.replace("~", ".")):
        prepared.resolve_data_dir(path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar10", ("cifar10", None, None)),
        ("cifar10:3.0.2", ("cifar10", None, "3.0.2")),
        ("cifar10/3.0.2", ("cifar10", None, "3.0.2")),
        ("a/b-c.d:1.0.0", ("a", "b-c.d", "1.0.0")),
    ],
)
def test_names_are_taken_apart(name, parts):
    assert prepared.parse_name(name) == parts


@pytest.mark.parametrize("name", ["", "../cifar10", "a/b/c", "space:cifar10", "cifar10:3"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="no data set's name"):
        prepared.parse_name(name)


def test_the_newest_complete_version_is_found(tmp_path):
    root = tmp_path / "toy"
    for version in ("9.0.0", "10.0.0", "incomplete.AB12CD_11.0.0"):
        (root / version).mkdir(parents=True)
    find = prepared.find_prepared
    assert find("toy", str(tmp_path)) == root / "10.0.0"
    assert find("toy:9.0.0", str(tmp_path)) == root / "9.0.0"
    assert find("toy:8.0.0", str(tmp_path)) is None
    assert find("other", str(tmp_path)) is None
    assert find("toy", str(tmp_path / "absent")) is None


def test_a_folder_inside_the_data_set_is_noticed(tmp_path):
    (tmp_path / "my data" / "toy" / "1.0.0").mkdir(parents=True)
    for inner in ("toy", "toy/1.0.0"):
        hint = prepared.folder_hint("toy", str(tmp_path / "my data" / inner))
        assert hint == f" (did you mean --data_dir='{tmp_path}/my data'?)"
    assert prepared.folder_hint("toy", str(tmp_path / "my data")) == ""


def test_configurations_are_chosen_by_name_or_by_the_noted_default(tmp_path):
    root = tmp_path / "toy"
    for config in ("one", "two"):
        (root / config / "1.0.0").mkdir(parents=True)
    assert prepared.find_prepared("toy/two", str(tmp_path)) == root / "two" / "1.0.0"
    with pytest.raises(UserError, match="name one of toy/one, toy/two"):
        prepared.find_prepared("toy", str(tmp_path))
    (root / ".config").mkdir()
    (root / ".config" / "metadata.json").write_text('{"default_config_name": "one"}')
    assert prepared.find_prepared("toy", str(tmp_path)) == root / "one" / "1.0.0"


def test_records_are_counted_up_to_the_damage(tmp_path):
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in (0, 1, 5000, 10):
            writer.write(b"x" * size)
    assert prepared.count_records(path) == (4, "")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert prepared.count_records(path) == (3, "is damaged or cut short")
    path.write_bytes(whole[: 16 + 17 + 5])
    assert prepared.count_records(path) == (2, "is damaged or cut short")
    path.write_bytes(whole[: 16 + 17])
    assert prepared.count_records(path) == (2, "")
    assert prepared.count_records(tmp_path / "absent")[1].startswith("cannot be read")


def test_a_file_is_compared_by_size_and_hash(tmp_path):
    path = tmp_path / "archive"
    content = b"<!DOCTYPE html>" + b" " * 2000
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    same = types.SimpleNamespace(size=len(content), checksum=sha256)
    assert prepared.describe_mismatch(path, same) == ""
    other = types.SimpleNamespace(size=len(content), checksum="0" * 64)
    assert prepared.describe_mismatch(path, other) == (
        f"expected 2015 bytes with sha256 {'0' * 64},"
        f" found 2015 bytes with sha256 {sha256}, an HTML page"
    )


def test_folders_that_hold_no_version_are_no_data_sets(tmp_path):
    for path in ("own/1.0.0", "other/config/2.0.1", "x/1.0.0.incomplete", "downloads", "src/2.0.0"):
        (tmp_path / path).mkdir(parents=True)
        if not path.startswith("src"):
            (tmp_path / path / "dataset_info.json").touch()
    assert prepared.list_prepared(str(tmp_path)) == ["other", "own"]
    assert prepared.describe_folder(str(tmp_path)) == "holds other, own"
    for number in range(6):
        (tmp_path / f"x{number}" / "1.0.0").mkdir(parents=True)
        (tmp_path / f"x{number}" / "1.0.0" / "dataset_info.json").touch()
    assert prepared.describe_folder(str(tmp_path)).endswith("x2 and 3 more")
