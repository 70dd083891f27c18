"""An evaluator as a SavedModel that TensorFlow Serving can serve."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.serving import SIGNATURE, ServedModel, check_version, next_version, staging_folder
from dance_tf.structs import METRICS, Evaluation

__all__ = ["export_evaluator"]

#: Largest relative difference between the evaluator, its export, and single rows of it.
_TOLERANCE = 1e-5

_NUM_COMPARED = 4


def export_evaluator(
    evaluator: Any, base_dir: str, version: int | str | None = None
) -> dict[str, Any]:
    """Write `<base_dir>/<version>/saved_model.pb`, re-loaded and compared before it is visible.

    Signature `serving_default`, the same at every export; every tensor has a batch axis:
    inputs `mixture_weights` float32 [B, D, O] and `objective_vectors` float32 [B, 4];
    outputs `latency_ms`, `energy_mj`, `area_mm2` float32 [B] and `accelerator_index`,
    `pe_x`, `pe_y`, `rf_bytes`, `dataflow` (position in structs.DATAFLOWS) int32 [B].

    Args:
        evaluator: protocols.Evaluator with either the `domain` or the `table` it speaks
            about; both have `space` and `accelerators`.
        base_dir: Folder of versions; made if missing.
        version: A whole number, 007 being 7; None: the highest in `base_dir` plus one.
    Returns:
        `path`, `version`, `inputs` and `outputs` (name to dtype and shape) and
        `max_relative_difference`.
    Raises:
        UserError: If the version is no whole number or is there already.
        RuntimeError: If the export does not do what the evaluator does.
    """
    base_dir = os.path.abspath(base_dir)
    if os.path.exists(base_dir) and not os.path.isdir(base_dir):
        raise UserError(f"{base_dir} is a file; name the folder that holds the versions")
    number = next_version(base_dir) if version is None else check_version(version)
    final = os.path.join(base_dir, str(number))
    if os.path.lexists(final):
        raise UserError(f"{final} is there already; the next version is {next_version(base_dir)}")
    # Before the evaluator is traced: one that computes constants at its first use has them.
    inputs = _random_inputs(_domain(evaluator).space.op_mask)
    evaluation = evaluator.evaluate(*map(tf.constant, inputs.values()))
    with staging_folder(base_dir) as staging:
        written = os.path.join(staging, "saved_model")
        _save(evaluator, written)
        served = ServedModel(written)
        difference = _largest_difference(served, inputs, evaluation)
        os.rename(written, final)
    return {
        "path": final,
        "version": number,
        "inputs": _described(served.inputs),
        "outputs": _described(served.outputs),
        "max_relative_difference": difference,
    }


def _save(evaluator: Any, path: str) -> None:
    space, accelerators = _domain(evaluator).space, _domain(evaluator).accelerators
    columns = {f: tf.constant(v, tf.int32) for f, v in accelerators.all()._asdict().items()}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, space.num_blocks, space.num_ops], tf.float32, "mixture_weights"),
            tf.TensorSpec([None, 4], tf.float32, "objective_vectors"),
        ]
    )
    def serve(mixture_weights: tf.Tensor, objective_vectors: tf.Tensor) -> dict[str, tf.Tensor]:
        metrics, index = evaluator.evaluate(mixture_weights, objective_vectors)
        index = tf.cast(index, tf.int32)
        return {
            **dict(zip(METRICS, tf.unstack(tf.cast(metrics, tf.float32), axis=1), strict=True)),
            "accelerator_index": index,
            **{field: tf.gather(values, index) for field, values in columns.items()},
        }

    module = tf.Module()
    # An evaluator may be any object, so its variables are taken from the traced function.
    module.variables_of_evaluator = list(serve.get_concrete_function().variables)
    module.serve = serve
    tf.saved_model.save(module, path, signatures={SIGNATURE: serve})


def _domain(evaluator: Any) -> Any:
    """Return what has the evaluator's `space` and `accelerators`."""
    domain = getattr(evaluator, "domain", None)
    return evaluator.table if domain is None else domain


def _largest_difference(
    served: ServedModel, inputs: dict[str, np.ndarray], evaluation: Evaluation
) -> float:
    """Compare an export with its evaluator, and each row of a batch with that row alone."""
    batch = served(**inputs)
    expected = dict(zip(METRICS, np.transpose(evaluation.metrics), strict=True))
    expected["accelerator_index"] = np.asarray(evaluation.accelerator_index)
    singles = [
        served(**{name: value[i] for name, value in inputs.items()}) for i in range(_NUM_COMPARED)
    ]
    largest = 0.0
    for name, value in batch.items():
        single = np.concatenate([output[name] for output in singles])
        for other in (expected.get(name, value), single):
            is_close = np.isclose(value, other, rtol=_TOLERANCE, atol=0.0)  # inf equals inf
            if not is_close.all():
                raise RuntimeError(
                    f"the export of the evaluator gives {name} {value}, not {other}; nothing kept"
                )
            finite = np.isfinite(value) & (value != 0)
            error = np.abs(value[finite] - other[finite]) / np.abs(value[finite])
            largest = max(largest, float(error.max(initial=0.0)))
    return largest


def _random_inputs(op_mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return mixtures (soft, then one-hot) and objectives (EDAP, then linear)."""
    rng = np.random.default_rng(0)
    weights = rng.random((_NUM_COMPARED, *np.shape(op_mask))) * np.asarray(op_mask)
    hard = weights == weights.max(axis=-1, keepdims=True)
    weights[1::2] = hard[1::2]
    vectors = np.ones((_NUM_COMPARED, 4))
    vectors[: _NUM_COMPARED // 2, 0] = 0.0
    return {
        "mixture_weights": (weights / weights.sum(-1, keepdims=True)).astype(np.float32),
        "objective_vectors": vectors.astype(np.float32),
    }


def _described(specs: dict[str, tf.TensorSpec]) -> dict[str, Any]:
    return {
        name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
        for name, spec in sorted(specs.items())
    }
