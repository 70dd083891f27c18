"""Settings of every test session, made before TensorFlow is imported, and shared fixtures."""

from __future__ import annotations

import os

import pytest

# Tests run beside each other; a TensorFlow that takes every core slows them all.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _run_eagerly():
    """Run TensorFlow's functions eagerly: tracing takes most of the time of a few steps."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


without_tracing = pytest.fixture(_run_eagerly, name="without_tracing")
module_without_tracing = pytest.fixture(_run_eagerly, scope="module", name="module_without_tracing")
