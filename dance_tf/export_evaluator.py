"""An evaluator as a SavedModel that TensorFlow Serving can serve."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.evaluator_signatures import evaluator_signatures
from dance_tf.folder_lock import owned
from dance_tf.serving import (
    ServedModel,
    check_servable,
    check_version,
    next_version,
    staging_folder,
)
from dance_tf.serving_files import write_warmup_requests
from dance_tf.structs import METRICS

__all__ = ["export_evaluator", "random_queries", "save_signatures"]

#: Largest relative difference between the evaluator, its export, and single rows of it.
_TOLERANCE = 1e-5

_NUM_COMPARED = 4


def export_evaluator(
    evaluator: Any,
    base_dir: str,
    version: int | str | None = None,
    exact: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Write `<base_dir>/<version>/saved_model.pb`, re-loaded and compared before it is visible.

    The signatures are those of `evaluator_signatures`, the same at every export. Beside the
    model lies one warm-up request per signature, where TensorFlow Serving looks for them.

    Args:
        evaluator: protocols.Evaluator with either the `domain` or the `table` it speaks
            about; both have `space` and `accelerators`.
        base_dir: Folder of versions; made if missing.
        version: A whole number, 007 being 7; None: the highest in `base_dir` plus one.
        exact: Finds the exact best accelerators, for the signature `exact`; see
            `evaluator_signatures`.
    Returns:
        `path`, `version`, `signatures` (name to `inputs` and `outputs`, which are name to
        dtype and shape), and `max_relative_difference`.
    Raises:
        UserError: If the version is no whole number or is there already.
        RuntimeError: If the export does not do what the evaluator does.
    """
    base_dir = os.path.abspath(base_dir)
    if os.path.exists(base_dir) and not os.path.isdir(base_dir):
        raise UserError(f"{base_dir} is a file; name the folder that holds the versions")
    with owned(base_dir, is_waiting=True):  # Two at once must not take the same version.
        return _export(evaluator, base_dir, version, exact)


def _export(
    evaluator: Any, base_dir: str, version: int | str | None, exact: Callable[..., Any] | None
) -> dict[str, Any]:
    number = next_version(base_dir) if version is None else check_version(version)
    final = os.path.join(base_dir, str(number))
    if os.path.lexists(final):
        raise UserError(f"{final} is there already; the next version is {next_version(base_dir)}")
    signatures = evaluator_signatures(evaluator, exact)
    domain = getattr(evaluator, "domain", None) or evaluator.table
    inputs = random_queries(domain, _NUM_COMPARED)
    # Before the evaluator is traced: one that computes constants at its first use has them.
    expected = {
        name: signature.answer(**{n: tf.constant(inputs[n]) for n in signature.inputs})
        for name, signature in signatures.items()
    }
    with staging_folder(base_dir) as staging:
        written = os.path.join(staging, "saved_model")
        save_signatures({name: s.function() for name, s in signatures.items()}, written)
        described, differences = {}, []
        for name, outputs in expected.items():
            served = ServedModel(written, name)
            asked = {n: inputs[n] for n in served.inputs}
            differences.append(_largest_difference(served, asked, outputs))
            described[name] = {
                "inputs": _described(served.inputs),
                "outputs": _described(served.outputs),
            }
        write_warmup_requests(
            written, {n: {i: inputs[i][:1] for i in s.inputs} for n, s in signatures.items()}
        )
        os.rename(written, final)
    return {
        "path": final,
        "version": number,
        "signatures": described,
        "max_relative_difference": max(differences),
    }


def random_queries(domain: Any, num: int) -> dict[str, np.ndarray]:
    """Return soft and one-hot mixtures in turn, EDAP before linear objectives, accelerators.

    Args:
        domain: Has `space` and `accelerators`.
        num: B, the number of each.
    """
    rng = np.random.default_rng(0)
    op_mask = np.asarray(domain.space.op_mask)
    weights = rng.random((num, *op_mask.shape)) * op_mask
    hard = weights == weights.max(axis=-1, keepdims=True)
    weights[1::2] = hard[1::2]
    vectors = rng.random((num, 4))
    vectors[:, 0] = np.arange(num) >= num // 2
    vectors[0, 1:] = 1.0
    return {
        "mixture_weights": (weights / weights.sum(-1, keepdims=True)).astype(np.float32),
        "objective_vectors": vectors.astype(np.float32),
        "accelerator_index": rng.integers(len(domain.accelerators), size=num, dtype=np.int32),
    }


def save_signatures(functions: Mapping[str, Any], path: str) -> None:
    """Write concrete functions of named tensors as the signatures of a SavedModel.

    Raises:
        UserError: If XLA must compile one of them.
    """
    module = tf.Module()
    # An evaluator may be any object, so its variables are taken from the traced functions.
    module.variables_of_evaluator = [list(function.variables) for function in functions.values()]
    tf.saved_model.save(module, path, signatures=functions)
    check_servable(path)


def _largest_difference(
    served: ServedModel, inputs: dict[str, np.ndarray], expected: Mapping[str, Any]
) -> float:
    """Compare an export with its evaluator, and each row of a batch with that row alone."""
    batch = served(**inputs)
    singles = [
        served(**{name: value[i] for name, value in inputs.items()}) for i in range(_NUM_COMPARED)
    ]
    largest = 0.0
    for name, value in batch.items():
        value = np.asarray(value, np.float64)
        # What says how far to trust a number is a difference of numbers.
        atol = 0.0 if name in METRICS else _TOLERANCE
        single = np.concatenate([output[name] for output in singles])
        for other in (np.asarray(expected[name], np.float64), single.astype(np.float64)):
            is_close = np.isclose(value, other, rtol=_TOLERANCE, atol=atol)  # inf equals inf
            if not is_close.all():
                raise RuntimeError(
                    f"the export of the evaluator gives {name} {value}, not {other}; nothing kept"
                )
            if name in METRICS:
                finite = np.isfinite(value) & (value != 0)
                error = np.abs(value[finite] - other[finite]) / np.abs(value[finite])
                largest = max(largest, float(error.max(initial=0.0)))
    return largest


def _described(specs: dict[str, tf.TensorSpec]) -> dict[str, Any]:
    return {
        name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
        for name, spec in sorted(specs.items())
    }
