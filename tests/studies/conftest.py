"""Fixture of several tests of studies."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf

from dance_tf.config import config_to_json
from dance_tf.presets import preset
from dance_tf.search import accuracy_memo, pipeline
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet
from tests.search.problems import tinted_images


@pytest.fixture
def supernet_dir(monkeypatch, tmp_path):
    """Return the folder of an untrained supernet that passes for a trained one, with images."""
    config = preset("tiny")
    folder = tmp_path / "supernet"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_json(config)), encoding="utf-8")
    space, record = make_space(config.space), {"weights_sha256": "ab", "data": {"name": "tints"}}
    supernet = Supernet(space, 3, "superkernel")
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(accuracy_memo, "read_supernet_record", lambda *arguments: record)
    monkeypatch.setattr(accuracy_memo, "load_supernet", lambda *arguments: supernet)
    monkeypatch.setattr(pipeline, "load_space_and_images", lambda c: (space, tinted_images()))
    return folder
