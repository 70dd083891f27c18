"""Say how well the predictor ranks networks that were trained, each left out in turn.

    python -m studies.predict_trained --trained=studies/results/trained_cifar10_small.json \\
        --ranked=studies/results/rank_cifar10_small.json --output=predicted.json

Kendall's rank correlation with the accuracies of the trainings, with 95 % bootstrap intervals
over the networks: of the predictor of search/accuracy, of the number of multiply-accumulates,
and of the inherited accuracies that rank_accuracy has measured of the same networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from dance_tf.config import SpaceConfig
from dance_tf.files import read_json, write_json
from dance_tf.structs import Architecture
from studies.found_networks import read_trained
from tools import flags as common

FLAGS = common.shared_flags()
_TRAINED = common.define_path("trained", "JSON file of train_side_by_side.", FLAGS)
_RANKED = common.define_path("ranked", "JSON file of rank_accuracy of the same networks.", FLAGS)
_OUTPUT = common.define_path("output", "JSON file to write.", FLAGS)

_NUM_RESAMPLES = 2000


def main(argv: list[str]) -> int:
    """Leave each network out, predict it, and write the correlations."""
    del argv
    common.require(_TRAINED, _OUTPUT)
    common.load_tensorflow()
    from dance_tf.run.reporting import format_table
    from dance_tf.search.accuracy.predictor import ErrorPredictor
    from dance_tf.supernet.space_files import make_space

    trained = read_trained(_TRAINED.value)
    space = make_space(SpaceConfig(**trained["config"]["space"]))
    rows = trained["networks"]
    networks = np.stack([space.to_indices(Architecture(space.name, tuple(r["ops"]))) for r in rows])
    errors = 1.0 - np.asarray([row["accuracy"]["value"] for row in rows])
    model, everyone = ErrorPredictor(space), np.arange(len(rows))
    predicted = []
    for left_out in everyone:
        others = everyone != left_out
        fitted = model.fit(networks[others], errors[others])
        predicted.append(fitted.errors(networks[[left_out]])[0])
    values = {
        "predictor, the network left out": -np.asarray(predicted),
        "macs": np.asarray([row["macs"] for row in rows], np.float64),
    }
    if _RANKED.value:
        for name, found in read_json(_RANKED.value)["supernets"].items():
            values[f"inherited, {name}"] = np.asarray(found["accuracies"])
    report: dict[str, Any] = {"num_networks": len(rows), "kendall": {}}
    for name, value in values.items():
        report["kendall"][name] = dict(
            zip(("value", "low", "high"), _tau(value, -errors), strict=True)
        )
    report["noise_stddev_of_log_error"] = model.fit(networks, errors).noise_stddev
    write_json(_OUTPUT.value, report)
    table = [[n, *(f"{v:.2f}" for v in k.values())] for n, k in report["kendall"].items()]
    print(format_table(("what ranks", "Kendall", "from", "to"), table))
    return 0


def _tau(values: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Return Kendall's correlation, and the ends of its bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(values), size=(_NUM_RESAMPLES, len(values)))
    taus = [stats.kendalltau(values[rows], truth[rows]).statistic for rows in drawn]
    low, high = np.quantile(taus, [0.025, 0.975])
    return float(stats.kendalltau(values, truth).statistic), float(low), float(high)


if __name__ == "__main__":
    common.run(main, FLAGS)
