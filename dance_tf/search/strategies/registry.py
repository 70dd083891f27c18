"""All strategies by name; a module of a strategy is imported when one of it is made."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dance_tf.search.strategies.problem import SearchStrategy

if TYPE_CHECKING:
    from dance_tf.search.accuracy.predictor import FittedPredictor

__all__ = ["STRATEGIES", "Entry", "make_strategy"]


class Entry(NamedTuple):
    """What a comparison says of a strategy, and how one is made."""

    method: str  # as the paper's table of systems names it
    relation: bool  # whether the accelerator's choice depends on the network's ops
    module: str
    class_name: str
    options: Mapping[str, object] = {}
    needs_inherited: bool = False


#: Entry by the name of the strategy, as results and command lines give it.
STRATEGIES: Mapping[str, Entry] = {
    "dance_predictor": Entry("gradient", True, "dance_predictor", "DancePredictor"),
    "dance_supernet": Entry(
        "gradient", True, "dance_supernet", "DanceSupernet", needs_inherited=True
    ),
    "dance_supernet_predictor": Entry(
        "gradient",
        True,
        "dance_predictor",
        "DancePredictor",
        {"name": "dance_supernet_predictor"},
        needs_inherited=True,
    ),
    "random_pairs": Entry("random", False, "random_pairs", "RandomPairs"),
    "random_networks": Entry(
        "random", True, "random_pairs", "RandomPairs", {"use_best_accelerator": True}
    ),
    "accuracy_first": Entry(
        "evolution", False, "baselines", "Baseline", {"kind": "accuracy_first"}
    ),
    "macs_penalty": Entry("evolution", False, "baselines", "Baseline", {"kind": "macs_penalty"}),
    "fixed_accelerator": Entry(
        "evolution", False, "baselines", "Baseline", {"kind": "fixed_accelerator"}
    ),
    "regularised_evolution": Entry(
        "evolution", True, "regularised_evolution", "RegularisedEvolution"
    ),
    "nsga2": Entry("evolution", True, "nsga2", "Nsga2"),
    "coordinate_descent": Entry(
        "coordinate descent", True, "coordinate_descent", "CoordinateDescent"
    ),
    "constrained_rl": Entry("RL", True, "constrained_rl", "ConstrainedRl"),
    "nasaic": Entry("RL", True, "nasaic", "Nasaic"),
    "best_of_both_combined": Entry("RL", True, "best_of_both", "BestOfBoth", {"kind": "combined"}),
    "best_of_both_phase": Entry("RL", True, "best_of_both", "BestOfBoth", {"kind": "phase"}),
    "best_of_both_separate": Entry("RL", False, "best_of_both", "BestOfBoth", {"kind": "separate"}),
    "two_level": Entry("RL", True, "two_level", "TwoLevel"),
    "edd": Entry("gradient", False, "edd", "Edd", {"kind": "edd"}),
    "edd_cost": Entry("gradient", True, "edd", "Edd", {"kind": "edd_cost"}),
}


def make_strategy(name: str, inherited: FittedPredictor | None = None) -> SearchStrategy:
    """Make a strategy.

    Args:
        name: Key of STRATEGIES.
        inherited: Predictor fitted to inherited errors, for those that need it.
    """
    entry = STRATEGIES[name]
    home = importlib.import_module(f"dance_tf.search.strategies.{entry.module}")
    options = dict(entry.options)
    if entry.needs_inherited:
        options["inherited"] = inherited
    strategy: SearchStrategy = getattr(home, entry.class_name)(**options)
    return strategy
