"""Differentiable co-exploration of networks and accelerators.

`import dance_tf` is cheap: a name is imported from its module, and TensorFlow with
it, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dance_tf.version import __version__ as __version__

if TYPE_CHECKING:
    from dance_tf.config import ExperimentConfig, config_from_json, config_to_json, override
    from dance_tf.data.datasets import load_data, load_images
    from dance_tf.data.images import ArrayImages
    from dance_tf.errors import UserError
    from dance_tf.evaluator.exact import ExactEvaluator
    from dance_tf.evaluator.loading import load_evaluator
    from dance_tf.evaluator.neural import NeuralEvaluator
    from dance_tf.export.networks import export_network
    from dance_tf.hardware.accelerator import AcceleratorSpace
    from dance_tf.hardware.cost_table import CostTable, load_or_build_table
    from dance_tf.hardware.layers import space_layers
    from dance_tf.hardware.measured import MeasuredCostModel, write_cost_template
    from dance_tf.hardware.objective import EDAP, Limits, Objective
    from dance_tf.hardware.oracle import best_accelerators, pareto_front, rank_accelerators
    from dance_tf.interop.keras_model import layers_of_keras_model
    from dance_tf.presets import preset
    from dance_tf.search.dance import DanceSearch
    from dance_tf.search.pipeline import run_experiment
    from dance_tf.search.problem import SearchProblem
    from dance_tf.search.result import SearchResult
    from dance_tf.search.retrain import retrain
    from dance_tf.structs import Accelerator, Architecture, Layer
    from dance_tf.supernet.search_space import Block, NetworkSpace
    from dance_tf.supernet.space_files import make_space
    from dance_tf.supernet.supernet import Supernet, build_network, derive

__all__ = [
    "EDAP",
    "Accelerator",
    "AcceleratorSpace",
    "Architecture",
    "ArrayImages",
    "Block",
    "CostTable",
    "DanceSearch",
    "ExactEvaluator",
    "ExperimentConfig",
    "Layer",
    "Limits",
    "MeasuredCostModel",
    "NetworkSpace",
    "NeuralEvaluator",
    "Objective",
    "SearchProblem",
    "SearchResult",
    "Supernet",
    "UserError",
    "best_accelerators",
    "build_network",
    "config_from_json",
    "config_to_json",
    "derive",
    "export_network",
    "layers_of_keras_model",
    "load_data",
    "load_evaluator",
    "load_images",
    "load_or_build_table",
    "make_space",
    "override",
    "pareto_front",
    "preset",
    "rank_accelerators",
    "retrain",
    "run_experiment",
    "space_layers",
    "write_cost_template",
]

#: Name to the module that it is imported from; the imports above, for the interpreter.
_HOMES = {
    "EDAP": "hardware.objective",
    "Accelerator": "structs",
    "AcceleratorSpace": "hardware.accelerator",
    "Architecture": "structs",
    "ArrayImages": "data.images",
    "Block": "supernet.search_space",
    "CostTable": "hardware.cost_table",
    "DanceSearch": "search.dance",
    "ExactEvaluator": "evaluator.exact",
    "ExperimentConfig": "config",
    "Layer": "structs",
    "Limits": "hardware.objective",
    "MeasuredCostModel": "hardware.measured",
    "NetworkSpace": "supernet.search_space",
    "NeuralEvaluator": "evaluator.neural",
    "Objective": "hardware.objective",
    "SearchProblem": "search.problem",
    "SearchResult": "search.result",
    "Supernet": "supernet.supernet",
    "UserError": "errors",
    "best_accelerators": "hardware.oracle",
    "build_network": "supernet.supernet",
    "config_from_json": "config",
    "config_to_json": "config",
    "derive": "supernet.supernet",
    "export_network": "export.networks",
    "layers_of_keras_model": "interop.keras_model",
    "load_data": "data.datasets",
    "load_evaluator": "evaluator.loading",
    "load_images": "data.datasets",
    "load_or_build_table": "hardware.cost_table",
    "make_space": "supernet.space_files",
    "override": "config",
    "pareto_front": "hardware.oracle",
    "preset": "presets",
    "rank_accelerators": "hardware.oracle",
    "retrain": "search.retrain",
    "run_experiment": "search.pipeline",
    "space_layers": "hardware.layers",
    "write_cost_template": "hardware.measured",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dance_tf' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dance_tf.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
