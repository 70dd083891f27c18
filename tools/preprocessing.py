"""The flag by which several tools export a network with the preparation of its images."""

from __future__ import annotations

from absl import flags

from dance_tf.config import DataConfig

__all__ = ["add_preprocessing", "define_preprocessing_flag"]


def define_preprocessing_flag(values: flags.FlagValues) -> flags.FlagHolder[bool]:
    """Add --export_preprocessing to the flags of a tool."""
    return flags.DEFINE_boolean(
        "export_preprocessing",
        False,
        "Write a SavedModel too that takes images as they are stored, of any size: it crops,"
        " resizes and scales them itself.",
        flag_values=values,
    )


def add_preprocessing(config: DataConfig, exports: str) -> str:
    """Write that SavedModel into a folder of exports, and return its path."""
    import os

    from dance_tf.data.datasets import load_data
    from dance_tf.export.networks import load_network
    from dance_tf.export.with_preprocessing import export_with_preprocessing

    shape = load_network(os.path.join(exports, "network.keras")).input_shape
    return export_with_preprocessing(load_data(config, tuple(shape[1:])), exports)
