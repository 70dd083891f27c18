"""Sweeps of searches over one trained supernet, their fronts, and what retraining makes of them.

Each search of a sweep has an objective, a lambda_2 and a seed, and ends with one network
on its exact best accelerator: a point of (error, latency, energy, area). The supernet's
weights are frozen, so that all searches, and the errors of what they find, are of the same
weights. Errors are of inherited weights on held-out images, and of real trainings where a
point has been retrained.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import moocore
import numpy as np

from dance_tf.config import ExperimentConfig, SearchConfig
from dance_tf.errors import UserError
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.search.dance import DanceSearch, SearchProblem
from dance_tf.search.interruption import StopSignals
from dance_tf.search.result import SearchResult
from dance_tf.search.retrain import retrain
from dance_tf.strict_json import write_json
from dance_tf.structs import METRICS, Architecture

__all__ = [
    "Point",
    "SweepSearch",
    "front",
    "hypervolume",
    "log_shares",
    "plan_sweep",
    "retrain_point",
    "run_search",
]

#: Error of guessing, from which the hypervolume is measured.
_GUESSING = 1.0


@dataclasses.dataclass(frozen=True)
class SweepSearch:
    """One search of a sweep."""

    objective: str  # as search.objective
    lambda_2: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.objective}_lambda{self.lambda_2:g}_seed{self.seed}"

    def config(self, base: SearchConfig) -> SearchConfig:
        """Return the config of this search."""
        return dataclasses.replace(
            base, objective=self.objective, lambda_2=self.lambda_2, supernet_weights="frozen"
        )


@dataclasses.dataclass(frozen=True)
class Point:
    """What one search found. Costs are exact unless they say otherwise.

    Errors are shares of images, of the networks with inherited weights on `architecture`
    and after training from scratch on `test`; None where that has not been measured.
    """

    search: SweepSearch
    ops: tuple[str, ...]
    accelerator: dict[str, Any]
    latency_ms: float
    energy_mj: float
    area_mm2: float
    edap_ms_mj_mm2: float
    predicted_edap_ms_mj_mm2: float  # by the evaluator, on the accelerator that it chose
    evaluator_edap_ms_mj_mm2: float  # exact, on that accelerator
    zero_share: float
    inherited_error: float
    retrained_error: float | None = None

    @property
    def costs(self) -> tuple[float, ...]:
        """In the order of METRICS."""
        return tuple(getattr(self, name) for name in METRICS)

    def to_json(self) -> dict[str, Any]:
        """Return the point as plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def plan_sweep(
    objectives: Iterable[str], lambdas: Iterable[float], seeds: Iterable[int]
) -> tuple[SweepSearch, ...]:
    """Return the searches of a sweep, without repetitions: seeds outermost, cheap to cut short.

    Raises:
        UserError: If there is none, or a lambda_2 is negative or not finite.
    """
    lambdas = tuple(lambdas)
    for value in lambdas:
        if not 0 <= value < math.inf:
            raise UserError(f"--lambdas: {value:g} is not a finite number from 0 up")
    objectives = tuple(objectives)
    searches = dict.fromkeys(
        SweepSearch(objective, lambda_2, seed)
        for seed in seeds
        for objective in objectives
        for lambda_2 in lambdas
    )
    if not searches:
        raise UserError("a sweep needs an objective, a lambda_2 and a seed")
    return tuple(searches)


def run_search(
    search: SweepSearch,
    config: ExperimentConfig,
    problem: SearchProblem,
    output_dir: str,
    stop: StopSignals | None = None,
) -> SearchResult:
    """Run one search of a sweep, or go on with it, or read what it found.

    Args:
        search: Which one.
        config: Of the sweep.
        problem: With a trained supernet, whose architecture parameters are reset.
        output_dir: Folder of this search; its checkpoints are removed at its end.
        stop: Signals to honour.
    Raises:
        UserError, Interrupted: See DanceSearch.search.
    """
    if os.path.exists(os.path.join(output_dir, "result.json")):
        return SearchResult.load(output_dir)
    problem.supernet.reset_architecture(search.seed)
    result = DanceSearch(
        search.config(config.search),
        seed=search.seed,
        output_dir=output_dir,
        is_resuming=True,
        stop=stop,
    ).search(problem)
    result.save(output_dir)
    shutil.rmtree(os.path.join(output_dir, "checkpoints"), ignore_errors=True)
    return result


def point_of(search: SweepSearch, result: SearchResult, inherited_error: float) -> Point:
    """Return what a search found as a point."""
    exact = result.exact_cost
    return Point(
        search=search,
        ops=result.architecture.ops,
        accelerator=accelerator_to_json(result.accelerator),
        latency_ms=exact.latency_ms,
        energy_mj=exact.energy_mj,
        area_mm2=exact.area_mm2,
        edap_ms_mj_mm2=exact.edap_ms_mj_mm2,
        predicted_edap_ms_mj_mm2=result.predicted_cost.edap_ms_mj_mm2,
        evaluator_edap_ms_mj_mm2=result.evaluator_accelerator_exact_cost.edap_ms_mj_mm2,
        zero_share=result.zero_share,
        inherited_error=inherited_error,
    )
