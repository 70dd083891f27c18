"""Commands and trained models, named for where the program runs."""

from __future__ import annotations

import pathlib

import pytest

from dance_tf.run import installation
from tests.repo.source import ROOT
from tools import search

NAME = "saved_models/supernet_cifar_mbconv_small"


def test_commands_exist_where_they_are_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    assert installation.tool_command("evaluate_cost") == "python -m tools.evaluate_cost"
    monkeypatch.chdir(tmp_path)
    assert installation.tool_command("evaluate_cost") == "dance-tf evaluate-cost"
    (tmp_path / "dance_tf").mkdir()  # another one
    assert installation.tool_command("evaluate_cost") == "dance-tf evaluate-cost"


def test_a_shipped_model_is_found_unless_the_user_has_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert installation.or_shipped(NAME) == str(ROOT / NAME)
    for other in ("saved_models/no_such", "supernet_cifar_mbconv_small", str(tmp_path / NAME)):
        assert installation.or_shipped(other) == other
    search.FLAGS.unparse_flags()
    search.FLAGS(["search", f"--supernet_dir={NAME}", f"--output_dir={NAME}"])
    assert search.FLAGS["supernet_dir"].value == str(ROOT / NAME)
    assert search.FLAGS["output_dir"].value == str(tmp_path / NAME)  # written to, so the user's
    (tmp_path / NAME).mkdir(parents=True)
    assert installation.or_shipped(NAME) == NAME
