"""Compare how supernets rank networks with how real trainings rank them.

    python -m studies.rank_accuracy --supernet_dir=runs/superkernel \\
        --supernet_dir=runs/proxyless --work_dir=runs/rank --output=rank_accuracy.json

Each network is trained from scratch, as a derived one is, and tested; each supernet says
how accurate it is on held-out images with inherited weights. Reports the rank
correlations (Spearman, Kendall) of the two, with 95 % bootstrap intervals over the
networks, for all networks and for the half with more MACs; beside them what the number of
multiplications says, which costs nothing.

The networks are spread evenly over the sizes of the space, without its extremes: of 4096
random ones, the middle 95 % by MACs are parted into intervals of equal width in log(MACs),
and one network is drawn from each. Very small networks, which any method ranks last,
would make the correlations look better than they are.

`--trained=FILE` of `studies.pytorch.train_side_by_side` takes the networks and trainings of that
file instead; those of its networks that are spread over the sizes are then a part of their own,
for the others were found by searches that one of the supernets has led.

The JSON file is written after each training, and the same command goes on where it was
stopped or killed, in the middle of a training too. More supernets can be added later: the
trainings stay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import warnings
from typing import Any

import numpy as np
from absl import flags
from scipy import stats

from dance_tf.config import ExperimentConfig, config_to_json
from dance_tf.errors import UserError
from dance_tf.files import read_json, strict_data, write_json
from dance_tf.structs import Architecture
from studies.begun_report import begun_report
from studies.found_networks import read_trained
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "space", "dataset", "data_dir", "seed")
_SUPERNET_DIR = common.define_path(
    "supernet_dir",
    "Folder of a finished train_supernet. Repeatable. The configuration of the first is used"
    " without another one.",
    FLAGS,
    is_repeated=True,
)
_WORK_DIR = common.define_path(
    "work_dir", "Folder of the trainings and of measured accuracies.", FLAGS
)
_OUTPUT = common.define_path("output", "JSON file to write, or to go on with.", FLAGS)
_TRAINED = common.define_path(
    "trained", "JSON file of train_side_by_side, instead of trainings.", FLAGS
)
_NUM_NETWORKS = flags.DEFINE_integer(
    "num_networks", 16, "Networks to train.", lower_bound=4, flag_values=FLAGS
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 2000, "Held-out images that an inherited accuracy is of.", flag_values=FLAGS
)

_SIZE = "macs"  # what needs no supernet, beside them
_NUM_DRAWN = 4096
_TAIL = 0.025  # share of the drawn networks that is cut off at each end
_NUM_RESAMPLES = 2000


def main(argv: list[str]) -> int:
    """Measure what is missing in the output file, write it and print the correlations."""
    del argv
    folders = {os.path.basename(os.path.normpath(path)): path for path in _SUPERNET_DIR.value}
    if not folders or len(folders) < len(_SUPERNET_DIR.value):
        raise UserError("--supernet_dir: name one folder or more, each with a name of its own")
    common.require(_WORK_DIR, _OUTPUT)
    common.start_from_config_in(_SUPERNET_DIR.value[0], FLAGS)
    config = common.experiment_config(FLAGS)
    trained = read_trained(_TRAINED.value) if _TRAINED.value else None
    report = _begun(config, trained, _OUTPUT.value)

    common.load_tensorflow()
    from dance_tf.run.reporting import format_table
    from dance_tf.run.surroundings import StopSignals, make_deterministic
    from dance_tf.search.pipeline import load_space_and_images

    make_deterministic(config.seed)
    space, dataset = load_space_and_images(config)
    if trained:
        ops = [tuple(row["ops"]) for row in trained["networks"]]
        networks = np.stack([space.to_indices(Architecture(space.name, o)) for o in ops])
        report["networks"] = trained["networks"]
    else:
        networks = spread_networks(space, _NUM_NETWORKS.value, config.seed)
    report["supernets"] = {
        name: _inherited(path, networks, space, dataset, config) for name, path in folders.items()
    }
    with StopSignals() as stop:
        for network in networks[len(report["networks"]) :]:
            report["networks"].append(_trained(network, space, dataset, config, stop))
            report["rank_correlation"] = _correlations(report)
            write_json(_OUTPUT.value, report)
    report["rank_correlation"] = _correlations(report)
    write_json(_OUTPUT.value, report)
    headers = ("supernet", "networks", "Spearman", "from", "to", "Kendall", "from", "to")
    print(format_table(headers, _rows(strict_data(report)["rank_correlation"])))
    return 0


def spread_networks(space: Any, num: int, seed: int) -> np.ndarray:
    """Draw op indices, int32 [num, D], spread evenly over log(MACs).

    In random order, so that the first of them are spread as well.
    """
    drawn = np.unique(space.sample(_NUM_DRAWN, seed), axis=0)
    sizes = np.log(num_macs(space, drawn))
    edges = np.linspace(*np.quantile(sizes, [_TAIL, 1 - _TAIL]), num + 1)
    rng, chosen, left = np.random.default_rng(seed), [], np.ones(len(drawn), bool)
    for low, high in itertools.pairwise(edges):
        rows = np.flatnonzero(left & (sizes >= low) & (sizes <= high))
        if not len(rows):  # A small space: the network next to the empty interval.
            rows = np.flatnonzero(left)
            rows = rows[[np.argmin(np.abs(sizes[rows] - (low + high) / 2))]]
        chosen.append(rng.choice(rows))
        left[chosen[-1]] = False
    return drawn[rng.permutation(chosen)]


def num_macs(space: Any, op_indices: np.ndarray) -> np.ndarray:
    """Return the multiplications of networks, int64 [N], from op indices [N, D]."""
    of_ops = [
        [sum(layer.macs for layer in space.op_layers(d, op)) for op in space.op_names]
        for d in range(space.num_blocks)
    ]
    fixed = sum(layer.macs for layer in space.fixed_layers())
    return fixed + np.asarray(of_ops)[np.arange(space.num_blocks), op_indices].sum(axis=1)


def correlation(inherited: Any, trained: Any, seed: int) -> dict[str, Any]:
    """Return the rank correlations of two accuracies [N], with bootstrap intervals."""
    pairs = (np.asarray(inherited, np.float64), np.asarray(trained, np.float64))
    found: dict[str, Any] = {"num_networks": len(pairs[0])}
    for name, measure in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):

        def statistic(x: Any, y: Any, measure: Any = measure) -> float:
            return float(measure(x, y).statistic)

        with warnings.catch_warnings():
            # Where all networks of a resample are equal there is no correlation.
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(
                pairs,
                statistic,
                paired=True,
                vectorized=False,
                n_resamples=_NUM_RESAMPLES,
                method="percentile",
                rng=np.random.default_rng(seed),
            ).confidence_interval
            found[name] = {"value": statistic(*pairs), "low": interval.low, "high": interval.high}
    return found


def _begun(config: ExperimentConfig, trained: dict[str, Any] | None, output: str) -> dict[str, Any]:
    """Return the report that is in the output file, or a new one.

    Raises:
        UserError: If the file is of other networks or trainings.
    """
    of_trainings = training_settings(config) | {"num_networks": _NUM_NETWORKS.value}
    if trained:
        given = {name: of_trainings[name] for name in ("space", "data")}
        if {name: trained["config"][name] for name in given} != given:
            raise UserError(f"{_TRAINED.value} is of another space or data set than {given}")
        of_trainings = trained["config"] | {"num_networks": len(trained["networks"])}
    from dance_tf.run import run_info

    return begun_report(output, of_trainings) or {
        "config": of_trainings,
        "machine": run_info.machine(),
        "versions": run_info.versions(),
        "networks": [],
    }


def training_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return what the outcome of a training from scratch depends on.

    Raises:
        UserError: If trainings are to start from inherited weights.
    """
    if config.retrain.initial_weights != "random":
        raise UserError(
            "networks are compared by trainings from scratch: leave retrain.initial_weights"
            " at random"
        )
    settings = config_to_json(config)
    settings["retrain"].pop("initial_weights")
    settings["data"].pop("data_dir")
    return {name: settings[name] for name in ("space", "data", "retrain", "seed")}


def _inherited(
    supernet_dir: str, networks: np.ndarray, space: Any, dataset: Any, config: ExperimentConfig
) -> dict[str, Any]:
    """Return a supernet's accuracies of the networks, and what it is."""
    from dance_tf.search.accuracy_memo import supernet_memo
    from dance_tf.search.supernet_training import read_supernet_record

    kind = read_json(os.path.join(supernet_dir, "supernet.json")).get("kind")
    search = dataclasses.replace(config.search, supernet=kind)
    config = dataclasses.replace(config, search=search)
    record = read_supernet_record(supernet_dir, space, dataset, config)
    num_images = _NUM_IMAGES.value
    name = f"inherited_{record['weights_sha256'][:16]}_{num_images}.jsonl"
    memo_path = os.path.join(_WORK_DIR.value, name)
    with supernet_memo(memo_path, supernet_dir, space, dataset, config, num_images) as memo:
        return {
            "kind": kind,
            "epochs": record["epochs"],
            "train_s": record["train_s"],
            **memo.identity,
            "accuracies": memo.accuracies(networks),
        }


def _trained(
    network: np.ndarray, space: Any, dataset: Any, config: ExperimentConfig, stop: Any
) -> dict[str, Any]:
    """Train one network, going on with what is there, and return its row."""
    from dance_tf.search.retrain import retrain

    architecture = space.from_indices(network)
    # Never goes on with a training of other settings.
    settings = hashlib.sha256(
        json.dumps(training_settings(config), sort_keys=True).encode()
    ).hexdigest()
    name = "_".join(map(str, network))
    folder = os.path.join(_WORK_DIR.value, f"trainings_{settings[:16]}", name)
    os.makedirs(folder, exist_ok=True)
    result = retrain(
        space, architecture, dataset, config.retrain, config.seed, folder, resume=True, stop=stop
    )
    return {
        "ops": architecture.ops,
        "macs": num_macs(space, network[None])[0],
        "accuracy": result.accuracy,
        "train_s": result.elapsed_s,
    }


def _correlations(report: dict[str, Any]) -> dict[str, Any]:
    """Return the correlations of each supernet for the networks that are trained."""
    networks = strict_data(report["networks"])
    by_size = sorted(range(len(networks)), key=lambda i: networks[i]["macs"])
    parts = {"all": by_size, "costlier half": by_size[len(by_size) // 2 :]}
    spread = [i for i in by_size if networks[i].get("is_spread", True)]
    if 1 < len(spread) < len(networks):
        parts["spread over the sizes"] = spread
    trained = np.asarray([network["accuracy"]["value"] for network in networks])
    judges = {name: supernet["accuracies"] for name, supernet in report["supernets"].items()}
    judges[_SIZE] = [network["macs"] for network in networks]
    return {
        name: {
            part: correlation(np.asarray(by)[rows], trained[rows], report["config"]["seed"])
            for part, rows in parts.items()
            if len(rows) > 1
        }
        for name, by in judges.items()
    }


def _rows(correlations: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (
            name,
            part,
            *(found[m][k] for m in ("spearman", "kendall") for k in ("value", "low", "high")),
        )
        for name, parts in correlations.items()
        for part, found in parts.items()
    ]


if __name__ == "__main__":
    common.run(main, FLAGS)
