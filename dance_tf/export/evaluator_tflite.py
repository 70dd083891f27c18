"""The evaluator as TFLite: one file for small devices, run with the LiteRT interpreter."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.export.evaluator import (
    SUM_TOLERANCE,
    domain_of,
    evaluator_signatures,
    random_queries,
    save_signatures,
)
from dance_tf.export.serving import SIGNATURE, staging_folder
from dance_tf.export.tflite import convert_to_tflite
from dance_tf.export.tflite_interpreter import open_interpreter, quiet_stderr
from dance_tf.files import Json, read_json, write_json
from dance_tf.protocols import Evaluator
from dance_tf.structs import METRICS, Evaluation

__all__ = ["TFLiteEvaluator", "export_evaluator_tflite"]

MODEL_FILE = "evaluator.tflite"
DESCRIPTION_FILE = "evaluator.json"

_SCHEMA_VERSION = 1

#: Largest relative difference of a metric to Keras.
_TOLERANCE = 1e-4

_NUM_COMPARED = 1000

_LARGEST = float(np.finfo(np.float32).max)


def export_evaluator_tflite(evaluator: Evaluator, output_dir: str) -> dict[str, Json]:
    """Write evaluator.tflite and evaluator.json, run on 1,000 queries before they are kept.

    The model has the signature `serving_default` of `evaluator_signatures` without its
    checks, which are in TFLiteEvaluator, and without the fields of trust.

    Args:
        evaluator: Neural evaluator; TFLite lacks operations of an exact one.
        output_dir: Folder; made if missing. Files of these names are replaced.
    Returns:
        `path`, `num_bytes`, `num_compared`, `max_relative_difference`.
    Raises:
        RuntimeError: If a metric differs by more than 1e-4, relatively, or an accelerator
            is another one.
    """
    output_dir = os.path.abspath(output_dir)
    domain = domain_of(evaluator)
    queries = random_queries(domain, _NUM_COMPARED)
    inputs = [queries[name] for name in ("mixture_weights", "objective_vectors")]
    expected = evaluator.evaluate(*inputs)
    signature = evaluator_signatures(evaluator, with_trust=False)[SIGNATURE]
    with staging_folder(output_dir) as staging:
        saved_model = os.path.join(staging, "saved_model")
        save_signatures({SIGNATURE: signature.function(is_checked=False)}, saved_model)
        content = convert_to_tflite(saved_model)
        path = os.path.join(staging, MODEL_FILE)
        with open(path, "wb") as file:
            file.write(content)
        space = domain.space
        description = {
            "schema_version": _SCHEMA_VERSION,
            "sha256": hashlib.sha256(content).hexdigest(),
            "space": space.name,
            "op_names": space.op_names,
            "op_mask": np.asarray(space.op_mask, bool),
            "cost_table_sha256": domain.content_hash,
        }
        write_json(os.path.join(staging, DESCRIPTION_FILE), description)
        found = TFLiteEvaluator(staging).evaluate(*inputs)
        report = {
            "path": os.path.join(output_dir, MODEL_FILE),
            "num_bytes": len(content),
            "num_compared": _NUM_COMPARED,
            "max_relative_difference": _largest_difference(found, expected),
        }
        for name in (MODEL_FILE, DESCRIPTION_FILE):
            os.replace(os.path.join(staging, name), os.path.join(output_dir, name))
    return report


class TFLiteEvaluator:
    """Exported evaluator in the LiteRT interpreter; answers as the neural one, forwarded hard."""

    kind = "tflite"

    def __init__(self, path: str | os.PathLike, num_threads: int = 1) -> None:
        """Load a folder that `export_evaluator_tflite` has written.

        Args:
            path: The folder.
            num_threads: Number of threads of the interpreter.
        Raises:
            UserError: If a file is missing or the two do not belong together.
        """
        self.path = os.path.join(os.fspath(path), MODEL_FILE)
        description = _read_description(os.path.join(os.fspath(path), DESCRIPTION_FILE))
        self._interpreter, runner = open_interpreter(self.path, num_threads)
        with open(self.path, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != description["sha256"]:
                raise UserError(f"{self.path}: is not the file that {DESCRIPTION_FILE} is of")
        self._forbidden = ~np.asarray(description["op_mask"], bool)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        self._weights = inputs["mixture_weights"]["index"]
        self._vectors = inputs["objective_vectors"]["index"]
        self._metrics = [outputs[name]["index"] for name in METRICS]
        self._index = outputs["accelerator_index"]["index"]
        self._batch_size = 0

    def evaluate(self, mixture_weights: ArrayLike, objective_vectors: ArrayLike) -> Evaluation:
        """Evaluate architectures under objectives.

        Args:
            mixture_weights: Architectures, float32 [B, D, O].
            objective_vectors: Objectives, float32 [B, 4]; see hardware.objective.
        Returns:
            Metrics float32 [B, 3] and the index of the generated accelerator, int32 [B].
        Raises:
            UserError: If shapes or values are out of range.
        """
        weights = np.asarray(mixture_weights, np.float32)
        vectors = np.asarray(objective_vectors, np.float32)
        self._check(weights, vectors)
        return self.evaluate_unchecked(weights, vectors)

    def evaluate_unchecked(self, weights: np.ndarray, vectors: np.ndarray) -> Evaluation:
        """Evaluate float32 arrays that are known to be in range; the checks take as long."""
        if len(weights) != self._batch_size:
            self._interpreter.resize_tensor_input(self._weights, weights.shape)
            self._interpreter.resize_tensor_input(self._vectors, vectors.shape)
            with quiet_stderr():  # the first time announces its delegate
                self._interpreter.allocate_tensors()
            self._batch_size = len(weights)
        self._interpreter.set_tensor(self._weights, weights)
        self._interpreter.set_tensor(self._vectors, vectors)
        self._interpreter.invoke()
        read = self._interpreter.get_tensor
        return Evaluation(
            np.stack([read(index) for index in self._metrics], axis=1), read(self._index)
        )

    def _check(self, weights: np.ndarray, vectors: np.ndarray) -> None:
        """Refuse the inputs that the served model refuses; comparisons with a NaN are false."""
        shape = self._forbidden.shape
        if weights.ndim != 3 or weights.shape[1:] != shape or not len(weights):
            raise UserError(
                f"mixture_weights have shape {list(weights.shape)}, not [B, {shape[0]}, {shape[1]}]"
            )
        if vectors.shape != (len(weights), 4):
            raise UserError(
                f"objective_vectors have shape {list(vectors.shape)}, not [{len(weights)}, 4]"
            )
        if not weights.min() >= 0:
            raise UserError("mixture_weights: some weights are negative or not a number")
        if not np.abs(weights.sum(axis=2) - 1).max() <= SUM_TOLERANCE:
            raise UserError(
                f"mixture_weights: the weights of a block do not sum to one within {SUM_TOLERANCE}"
            )
        if (weights * self._forbidden).any():
            raise UserError("mixture_weights: an op that its block does not have has weight")
        if not vectors.min() >= 0:
            raise UserError("objective_vectors: some weights are negative or not a number")
        total = vectors[:, 1:].sum(axis=1, dtype=np.float64)
        if not (total.min() > 0 and total.max() <= _LARGEST):
            raise UserError("objective_vectors: all weights are 0, or their sum is too large")
        is_linear = vectors[:, 0]
        if not ((is_linear == 0) | (is_linear == 1)).all():
            raise UserError("objective_vectors: is_linear, the first number, is neither 0 nor 1")


def _read_description(path: str) -> dict[str, Json]:
    description = read_json(path)
    version = description.get("schema_version") if isinstance(description, dict) else None
    if version != _SCHEMA_VERSION or not {"sha256", "op_mask"} <= set(description):
        raise UserError(f"{path}: does not describe a TFLite evaluator of schema {_SCHEMA_VERSION}")
    return description


def _largest_difference(found: Evaluation, expected: Evaluation) -> float:
    metrics = np.asarray(expected.metrics)
    difference = np.abs(found.metrics - metrics) / np.abs(metrics)
    largest = float(difference.max())
    if not largest <= _TOLERANCE:
        raise RuntimeError(
            f"the TFLite evaluator's metrics differ from Keras by {largest}, relatively;"
            " nothing kept"
        )
    differs = np.asarray(found.accelerator_index) != np.asarray(expected.accelerator_index)
    if differs.any():
        raise RuntimeError(
            f"the TFLite evaluator chooses another accelerator for {differs.sum()} of"
            f" {len(differs)} queries; nothing kept"
        )
    return largest
