"""Seconds of a step of the co-search with each evaluator, and without any."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.hardware.objective import EDAP
from dance_tf.protocols import Evaluator
from dance_tf.search.steps import CoSearchSteps, stateless_seed
from dance_tf.structs import Evaluation
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.supernet import Supernet

__all__ = ["measure_search_steps"]

# Steps before the clock starts: the first one traces.
_NUM_WARM = 2


class _NoCost:
    """Answers at once: a step with it takes what a step of accuracy alone takes."""

    def evaluate(self, mixture_weights: tf.Tensor, objective_vectors: tf.Tensor) -> Evaluation:
        del objective_vectors
        rows = tf.shape(mixture_weights)[0]
        return Evaluation(tf.ones([rows, 3]), tf.zeros([rows], tf.int32))


def measure_search_steps(
    space: NetworkSpace,
    evaluators: Mapping[str, Evaluator],
    reference: np.ndarray,
    config: SearchConfig,
    *,
    num_steps: int,
    seed: int = 0,
) -> dict[str, float]:
    """Return the median seconds of a weight step and of an architecture step by evaluator.

    All are of one supernet and take turns, so other work on the machine slows all alike.

    Args:
        space: Network space.
        evaluators: Evaluators by name.
        reference: Metrics that normalise objectives, [3].
        config: Batch size, and how the gradient of the cross-entropy is estimated.
        num_steps: Timed steps of each kind.
        seed: Seed of weights, images and paths.
    Returns:
        `weight_step`; `architecture_step_NAME` for each evaluator and for `no_cost`.
    """
    random = np.random.RandomState(seed)
    shape = (config.batch_size, *space.input_shape)
    images = tf.constant(random.rand(*shape), tf.float32)
    labels = tf.constant(random.randint(0, space.num_classes, config.batch_size), tf.int32)
    supernet = Supernet(space, seed, config.supernet)
    # Weights that hardly move: no step is to end in numbers that are not finite.
    config = dataclasses.replace(config, weight_learning_rate=1e-6, arch_learning_rate=1e-6)
    # _NoCost has the one method that a step calls.
    measured: dict[str, Any] = {"no_cost": _NoCost(), **evaluators}
    steps = {
        name: CoSearchSteps(
            supernet=supernet,
            evaluator=evaluator,
            objective=EDAP,
            reference=reference,
            config=config,
            total_steps=_NUM_WARM + num_steps,
        )
        for name, evaluator in measured.items()
    }
    seconds: dict[str, list[float]] = {}
    for step in range(_NUM_WARM + num_steps):
        path_seed = stateless_seed(seed, "weight_path", step)
        path = steps["no_cost"].sample_path(path_seed, is_uniform=True)
        runs: dict[str, Callable[[], tuple[tf.Tensor, ...]]] = {
            "weight_step": functools.partial(steps["no_cost"].weight_step, images, labels, path)
        }
        arguments = (images, labels, tf.constant(path_seed), tf.constant(0.1))
        for name, own in steps.items():
            step_of = functools.partial(own.architecture_step, *arguments)
            runs[f"architecture_step_{name}"] = step_of
        for name, run in runs.items():
            began = time.perf_counter()
            float(run()[0])
            if step >= _NUM_WARM:
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}
