"""SavedModels as TFLite, and the interpreter that runs them, without their chatter."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.paths import pattern_free
from dance_tf.serving import SIGNATURE, ServedModel
from dance_tf.signatures import Images, arrays_by_name

__all__ = ["convert_to_tflite", "open_interpreter", "quiet_stderr"]


def convert_to_tflite(
    saved_model_dir: str, calibration_images: Images | None = None, *, use_int8_io: bool = True
) -> bytes:
    """Return a SavedModel as TFLite: float, or all-integer if there are calibration images.

    It starts from the SavedModel, never from the Keras object: conversion from concrete
    functions of Keras 3 models has dropped weights without a word.

    Args:
        saved_model_dir: With the signature `serving_default`.
        calibration_images: [N, H, W, C], fed one at a time and by name; N >= 1.
        use_int8_io: Whether the int8 model's input and output are int8 too.
    """
    with pattern_free(saved_model_dir) as readable:
        return _convert(readable, calibration_images, use_int8_io)


def _convert(saved_model_dir: str, calibration_images: Images | None, use_int8_io: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model_dir, [SIGNATURE])
    if calibration_images is not None:
        specs = ServedModel(saved_model_dir).inputs
        samples = arrays_by_name(calibration_images, specs, "calibration_images")

        def representative_dataset() -> Iterator[dict[str, np.ndarray]]:
            for i in range(len(next(iter(samples.values())))):
                yield {name: array[i : i + 1] for name, array in samples.items()}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative_dataset
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if use_int8_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # calibration inside TensorFlow warns of its own future
        return converter.convert()


def open_interpreter(path: str, num_threads: int | None = None) -> tuple[Any, Any]:
    """Return the LiteRT interpreter of a file and the runner of its `serving_default`.

    Raises:
        UserError: If it is not a TFLite model with the signature `serving_default`.
    """
    from ai_edge_litert.interpreter import Interpreter  # late: only TFLite needs it

    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; expected a TFLite model")
    try:
        with quiet_stderr():
            interpreter = Interpreter(model_path=path, num_threads=num_threads)
        return interpreter, interpreter.get_signature_runner(SIGNATURE)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: not a TFLite model with the signature {SIGNATURE!r}: {reason}"
        ) from None


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep native chatter of TFLite from the terminal; say it all if something fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        saved = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException:
            chatter.seek(0)
            os.write(saved, chatter.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
