"""An evaluator as a SavedModel that TensorFlow Serving can serve.

It has the signatures `serving_default` (evaluate), `estimate_cost` and, on request, `exact`;
each refuses inputs that are out of range, with a message that names input and row.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from dance_tf.errors import UserError
from dance_tf.export.serving import (
    SIGNATURE,
    ServedModel,
    check_servable,
    check_version,
    next_version,
    staging_folder,
    write_warmup_requests,
)
from dance_tf.files import Json
from dance_tf.protocols import Evaluator, SearchSpace
from dance_tf.run.folder_lock import owned
from dance_tf.structs import METRICS, Accelerators

__all__ = [
    "ESTIMATE_COST",
    "EXACT",
    "SUM_TOLERANCE",
    "Choice",
    "Domain",
    "Signature",
    "domain_of",
    "evaluator_signatures",
    "export_evaluator",
    "random_queries",
    "save_signatures",
]

ESTIMATE_COST = "estimate_cost"
EXACT = "exact"

#: Largest difference between one and the sum of the weights of a block.
SUM_TOLERANCE = 1e-3

#: Condition that each row has to meet, bool [B], by the message about a row that does not.
_Checks = dict[str, tf.Tensor]

#: Largest relative difference between the evaluator, its export, and single rows of it.
_TOLERANCE = 1e-5

_NUM_COMPARED = 4


class _AcceleratorSpace(Protocol):
    def __len__(self) -> int: ...

    def all(self) -> Accelerators: ...


class Domain(Protocol):
    """Spaces and cost table that an evaluator is for: its domain, or a CostTable itself."""

    @property
    def space(self) -> SearchSpace: ...

    @property
    def accelerators(self) -> _AcceleratorSpace: ...

    @property
    def content_hash(self) -> str: ...


class Choice(Protocol):
    """Accelerators chosen for B architectures, with their metrics."""

    @property
    def accelerator_index(self) -> tf.Tensor: ...

    @property
    def metrics(self) -> tf.Tensor: ...


#: Function from mixture weights and objective vectors to exact best accelerators.
_Exact = Callable[[tf.Tensor, tf.Tensor], Choice]


def domain_of(evaluator: Evaluator) -> Domain:
    """Return the `domain` of an evaluator or, where it has none, its `table`."""
    return getattr(evaluator, "domain" if hasattr(evaluator, "domain") else "table")


def export_evaluator(
    evaluator: Evaluator,
    base_dir: str,
    version: int | str | None = None,
    exact: _Exact | None = None,
) -> dict[str, Json]:
    """Write `<base_dir>/<version>/saved_model.pb`, re-loaded and compared before it is visible.

    The signatures are those of `evaluator_signatures`, the same at every export. Beside the
    model lies one warm-up request per signature, where TensorFlow Serving looks for them.

    Args:
        evaluator: Evaluator that has a `domain` or a `table`.
        base_dir: Folder of versions; made if missing.
        version: Whole number, 007 being 7; None: the highest in `base_dir` plus one.
        exact: Function that finds the exact best accelerators, for the signature `exact`;
            see `evaluator_signatures`.
    Returns:
        `path`, `version`, `signatures` (name to `inputs` and `outputs`, which are name to
        dtype and shape), and `max_relative_difference`.
    Raises:
        UserError: If the version is no whole number or is there already.
        RuntimeError: If the answers of the export are not those of the evaluator.
    """
    base_dir = os.path.abspath(base_dir)
    if os.path.exists(base_dir) and not os.path.isdir(base_dir):
        raise UserError(f"{base_dir} is a file; name the folder that holds the versions")
    with owned(base_dir, is_waiting=True):  # Two at once must not take the same version.
        return _export(evaluator, base_dir, version, exact)


def _export(
    evaluator: Evaluator, base_dir: str, version: int | str | None, exact: _Exact | None
) -> dict[str, Json]:
    number = next_version(base_dir) if version is None else check_version(version)
    final = os.path.join(base_dir, str(number))
    if os.path.lexists(final):
        raise UserError(f"{final} is there already; the next version is {next_version(base_dir)}")
    signatures = evaluator_signatures(evaluator, exact)
    inputs = random_queries(domain_of(evaluator), _NUM_COMPARED)
    # Before the evaluator is traced, so that constants it computes at its first use are there.
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


def random_queries(domain: Domain, num: int) -> dict[str, np.ndarray]:
    """Return soft and one-hot mixtures in turn, EDAP before linear objectives, accelerators.

    Args:
        domain: Spaces that the queries are drawn from.
        num: Number of queries, B.
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


def save_signatures(functions: Mapping[str, ConcreteFunction], path: str) -> None:
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
    served: ServedModel, inputs: dict[str, np.ndarray], expected: Mapping[str, tf.Tensor]
) -> float:
    """Compare an export with its evaluator, and each row of a batch with that row alone."""
    batch = served(**inputs)
    singles = [
        served(**{name: value[i] for name, value in inputs.items()}) for i in range(_NUM_COMPARED)
    ]
    largest = 0.0
    for name, value in batch.items():
        value = np.asarray(value, np.float64)
        # Predicted regret and error bound are differences of numbers, and may be next to 0.
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


def _described(specs: dict[str, tf.TensorSpec]) -> dict[str, Json]:
    return {
        name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
        for name, spec in sorted(specs.items())
    }


class Signature(NamedTuple):
    """Inputs of a signature by name, conditions that each has to meet, and the answer."""

    inputs: dict[str, tf.TensorSpec]
    checks: dict[str, Callable[[tf.Tensor], _Checks]]
    answer: Callable[..., dict[str, tf.Tensor]]
    scope: Callable[[], AbstractContextManager] = contextlib.nullcontext  # in which to answer

    def function(self, *, is_checked: bool = True) -> ConcreteFunction:
        """Return a concrete function of the inputs, which refuses bad ones if it is checked."""

        def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            if is_checked:
                # The inputs themselves wait for the checks, so no loader can drop these.
                with tf.control_dependencies(self._refusals(inputs)):
                    inputs = {name: tf.identity(value) for name, value in inputs.items()}
            with self.scope():
                return self.answer(**inputs)

        return tf.function(serve, autograph=False).get_concrete_function(**self.inputs)

    def _refusals(self, inputs: Mapping[str, tf.Tensor]) -> list[tf.Operation]:
        """Return operations that fail where the inputs are out of range."""
        first, *others = (tf.shape(value)[0] for value in inputs.values())
        same = [_refuse_unless(size == first, "batch sizes differ") for size in others]
        with tf.control_dependencies(same):
            checks = {
                f"{name}: {text}": passed
                for name, check in self.checks.items()
                for text, passed in check(tf.identity(inputs[name])).items()
            }
        return [*same, _refuse_rows(checks)]


def evaluator_signatures(
    evaluator: Evaluator, exact: _Exact | None = None, *, with_trust: bool = True
) -> dict[str, Signature]:
    """Return the signatures of an evaluator by name.

    Args:
        evaluator: Evaluator that has a `domain` or a `table`.
        exact: Function from mixture weights and objective vectors to the exact best
            accelerators, such as oracle.best_accelerators of a table; None: there is no
            signature `exact`.
        with_trust: Whether the answer of `serving_default` has the fields of structs.Trust.
    """
    domain = domain_of(evaluator)
    accelerators, op_mask = domain.accelerators, np.asarray(domain.space.op_mask, bool)
    # Reading a variable takes about as long as a small layer, so an evaluator may have a
    # scope in which its weights are constants.
    scope = getattr(evaluator, "constant_weights", lambda: contextlib.nullcontext)()
    rows = accelerators.all()
    columns = tf.constant(np.stack(rows, axis=1), tf.int32)  # [A, fields]

    def of_choice(metrics: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.cast(index, tf.int32)
        fields = tf.unstack(tf.gather(columns, index), axis=1)
        named = dict(zip(rows._fields, fields, strict=True))
        return {**_by_name(metrics), "accelerator_index": index, **named}

    def evaluate(mixture_weights: tf.Tensor, objective_vectors: tf.Tensor) -> dict[str, tf.Tensor]:
        evaluation = evaluator.evaluate(mixture_weights, objective_vectors)
        outputs = of_choice(*evaluation)
        if with_trust and hasattr(evaluator, "trust"):
            outputs |= evaluator.trust(mixture_weights, objective_vectors, evaluation)._asdict()
        return outputs

    def estimate(mixture_weights: tf.Tensor, accelerator_index: tf.Tensor) -> dict[str, tf.Tensor]:
        return _by_name(evaluator.estimate(mixture_weights, accelerator_index))

    def find(mixture_weights: tf.Tensor, objective_vectors: tf.Tensor) -> dict[str, tf.Tensor]:
        assert exact is not None
        best = exact(mixture_weights, objective_vectors)
        return of_choice(best.metrics, best.accelerator_index)

    def signature(answer: Callable[..., dict[str, tf.Tensor]], other: str) -> Signature:
        names = ("mixture_weights", other)
        return Signature(
            {name: specs[name] for name in names},
            {name: checks[name] for name in names},
            answer,
            scope,
        )

    specs = {
        "mixture_weights": tf.TensorSpec([None, *op_mask.shape], tf.float32, "mixture_weights"),
        "objective_vectors": tf.TensorSpec([None, 4], tf.float32, "objective_vectors"),
        "accelerator_index": tf.TensorSpec([None], tf.int32, "accelerator_index"),
    }
    checks: dict[str, Callable[[tf.Tensor], _Checks]] = {
        "mixture_weights": lambda weights: _mixture_checks(weights, op_mask),
        "objective_vectors": _objective_checks,
        "accelerator_index": lambda index: _index_checks(index, len(accelerators)),
    }
    signatures = {
        SIGNATURE: signature(evaluate, "objective_vectors"),
        ESTIMATE_COST: signature(estimate, "accelerator_index"),
    }
    if exact is not None:
        signatures[EXACT] = signature(find, "objective_vectors")
    return signatures


def _by_name(metrics: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return metrics [B, 3] as one tensor [B] each."""
    return dict(zip(METRICS, tf.unstack(tf.cast(metrics, tf.float32), axis=1), strict=True))


def _mixture_checks(weights: tf.Tensor, op_mask: np.ndarray) -> _Checks:
    sums = tf.reduce_sum(weights, axis=2)
    # A comparison with a NaN is false.
    return {
        "some weights are not finite": tf.reduce_all(tf.math.is_finite(weights), axis=[1, 2]),
        "some weights are negative": tf.reduce_all(weights >= 0, axis=[1, 2]),
        f"the weights of a block do not sum to one within {SUM_TOLERANCE}": tf.reduce_all(
            tf.abs(sums - 1.0) <= SUM_TOLERANCE, axis=1
        ),
        "an op that its block does not have has weight": tf.reduce_all(
            (weights == 0) | op_mask, axis=[1, 2]
        ),
    }


def _objective_checks(vectors: tf.Tensor) -> _Checks:
    is_linear, total = vectors[:, 0], tf.reduce_sum(vectors[:, 1:], axis=1)
    return {
        "some numbers are not finite": tf.reduce_all(tf.math.is_finite(vectors), axis=1),
        "is_linear, the first number, is neither 0 nor 1": (is_linear == 0) | (is_linear == 1),
        "some weights are negative": tf.reduce_all(vectors[:, 1:] >= 0, axis=1),
        "all weights are 0, or their sum is too large": (total > 0) & tf.math.is_finite(total),
    }


def _index_checks(index: tf.Tensor, num_accelerators: int) -> _Checks:
    return {f"outside 0..{num_accelerators - 1}": (index >= 0) & (index < num_accelerators)}


def _refuse_rows(checks: _Checks) -> tf.Operation:
    """Return an operation that fails on the first row that a check does not pass."""
    passed = tf.stack(list(checks.values()), axis=1)  # [B, checks]

    def refuse() -> tf.Tensor:
        first = tf.argmin(tf.reshape(tf.cast(passed, tf.int32), [-1]), output_type=tf.int32)
        message = tf.gather(list(checks), first % len(checks))
        row = tf.strings.as_string(first // len(checks))
        with tf.control_dependencies(
            [_refuse_unless(False, tf.strings.join([message, " (row ", row, ")"]))]
        ):
            return tf.constant(False)

    # The message is put together only where it is needed, which saves a third of the checks.
    return tf.cond(tf.reduce_all(passed), lambda: tf.constant(True), refuse).op


def _refuse_unless(condition: tf.Tensor, message: str | tf.Tensor) -> tf.Operation:
    # Not tf.debugging.Assert, which wraps the operation in a conditional that costs more.
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(message)])
