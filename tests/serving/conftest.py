"""One untrained evaluator, exported once with all its signatures, and a server of it."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from dance_tf.config import EvaluatorConfig
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.evaluator.training import EvaluatorTrainer
from dance_tf.export.evaluator import export_evaluator, random_queries
from dance_tf.export.serving import write_server_files
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.oracle import best_accelerators
from tests.evaluator.fake_table import make_fake_table
from tests.serving.local_server import LocalServer


@pytest.fixture(scope="session")
def table() -> CostTable:
    """Two blocks, 54 accelerators, made-up numbers."""
    return make_fake_table()


@pytest.fixture(scope="session")
def evaluator(table: CostTable) -> NeuralEvaluator:
    """Untrained: what is tested here does not depend on the weights."""
    config = EvaluatorConfig(num_blocks=2, generator_units=16, estimator_units=16)
    return EvaluatorTrainer(table, config, 0, np.asarray([3, 20, 41])).evaluator()


@pytest.fixture(scope="session")
def folder(evaluator, table, tmp_path_factory) -> pathlib.Path:
    """What --serving_dir writes: evaluator/1 and the files of a server."""
    path = tmp_path_factory.mktemp("serving") / "a folder"
    exact = functools.partial(best_accelerators, table)
    export_evaluator(evaluator, str(path / "evaluator"), exact=exact)
    write_server_files(str(path))
    return path


@pytest.fixture(scope="session")
def server(folder) -> Iterator[LocalServer]:
    """A server of the export, with the warm-up behind it."""
    with LocalServer(str(folder / "evaluator")) as running:
        yield running


@pytest.fixture(scope="session")
def queries(evaluator) -> dict[str, np.ndarray]:
    """Inputs of all signatures, six rows."""
    return random_queries(evaluator.domain, 6)
