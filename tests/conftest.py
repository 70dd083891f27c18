"""Settings of every test session, made before TensorFlow is imported, and shared fixtures."""

from __future__ import annotations

import os
import pathlib

import pytest

# Tests run beside each other; a TensorFlow that takes every core slows them all.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _run_eagerly():
    """Run TensorFlow's functions eagerly: tracing takes most of the time of a few steps."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(before)


without_tracing = pytest.fixture(_run_eagerly, name="without_tracing")
module_without_tracing = pytest.fixture(_run_eagerly, scope="module", name="module_without_tracing")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Folder of cost tables that the processes of a session share; a whole table takes long.

    Its parent may be given as XDG_CACHE_HOME.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    folder = base / "shared" / "dance_tf"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
