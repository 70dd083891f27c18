"""What a served evaluator answers: its signatures, and the input that they refuse.

    serving_default: mixture_weights [B, D, O], objective_vectors [B, 4]
                     -> metrics and fields of the generated accelerator
    estimate_cost:   mixture_weights [B, D, O], accelerator_index [B] -> metrics
    exact:           as serving_default, of the exact best accelerator

All outputs have shape [B]. Input that is out of range fails with INVALID_ARGUMENT and is
not answered. The checks are a part of the graph, so they hold whatever loads it; where a
server puts several requests into one batch, one that is refused takes the others along.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.serving import SIGNATURE
from dance_tf.structs import METRICS

__all__ = ["ESTIMATE_COST", "EXACT", "SUM_TOLERANCE", "Signature", "evaluator_signatures"]

ESTIMATE_COST = "estimate_cost"
EXACT = "exact"

#: How far from one the weights of a block may sum to.
SUM_TOLERANCE = 1e-3

#: Condition that each row has to meet, bool [B], by what to say of a row that does not.
_Checks = dict[str, tf.Tensor]


class Signature(NamedTuple):
    """One signature: its inputs by name, what it asks of each, and its answer."""

    inputs: dict[str, tf.TensorSpec]
    checks: dict[str, Callable[[tf.Tensor], _Checks]]
    answer: Callable[..., dict[str, tf.Tensor]]
    scope: Callable[[], Any] = contextlib.nullcontext  # in which to answer

    def function(self, *, is_checked: bool = True) -> Any:
        """Return a concrete function of the inputs; without the checks, it answers bad input."""

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
    evaluator: Any, exact: Callable[..., Any] | None = None, *, with_trust: bool = True
) -> dict[str, Signature]:
    """Return the signatures of an evaluator by name.

    Args:
        evaluator: protocols.Evaluator with either the `domain` or the `table` it speaks
            about; both have `space` and `accelerators`.
        exact: From mixture weights and objective vectors to the exact best accelerators, a
            record with `accelerator_index` and `metrics`, such as oracle.best_accelerators
            of a table; None: there is no signature `exact`.
        with_trust: Whether `serving_default` says how far its answer is to be trusted.
    """
    domain = getattr(evaluator, "domain", None) or evaluator.table
    accelerators, op_mask = domain.accelerators, np.asarray(domain.space.op_mask, bool)
    # Reading a variable takes about as long as a small layer, so an evaluator may have a
    # scope in which its weights are constants.
    scope = getattr(evaluator, "constant_weights", lambda: contextlib.nullcontext)()
    rows = accelerators.all()
    columns = tf.constant(np.stack(rows, axis=1), tf.int32)  # [A, fields]

    def of_choice(metrics: Any, index: Any) -> dict[str, tf.Tensor]:
        index = tf.cast(index, tf.int32)
        fields = tf.unstack(tf.gather(columns, index), axis=1)
        named = dict(zip(rows._fields, fields, strict=True))
        return {**_by_name(metrics), "accelerator_index": index, **named}

    def evaluate(mixture_weights: Any, objective_vectors: Any) -> dict[str, tf.Tensor]:
        evaluation = evaluator.evaluate(mixture_weights, objective_vectors)
        outputs = of_choice(*evaluation)
        if with_trust and hasattr(evaluator, "trust"):
            outputs |= evaluator.trust(mixture_weights, objective_vectors, evaluation)._asdict()
        return outputs

    def estimate(mixture_weights: Any, accelerator_index: Any) -> dict[str, tf.Tensor]:
        return _by_name(evaluator.estimate(mixture_weights, accelerator_index))

    def find(mixture_weights: Any, objective_vectors: Any) -> dict[str, tf.Tensor]:
        assert exact is not None
        best = exact(mixture_weights, objective_vectors)
        return of_choice(best.metrics, best.accelerator_index)

    def signature(answer: Callable[..., Any], other: str) -> Signature:
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


def _by_name(metrics: Any) -> dict[str, tf.Tensor]:
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


def _refuse_unless(condition: tf.Tensor, message: Any) -> tf.Operation:
    # Not tf.debugging.Assert, which wraps the operation in a conditional that costs more.
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(message)])
