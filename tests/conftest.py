"""What every test session sets before TensorFlow is imported."""

from __future__ import annotations

import os

# Tests run beside each other; a TensorFlow that takes every core slows them all.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
