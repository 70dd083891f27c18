"""Train the networks that searches have found, many at once on a GPU.

    python -m studies.pytorch.train_side_by_side --preset=cifar10_small --images=runs/images.npz \\
        --found=runs/sweep/pareto.json --found=front.json --num_spread=12 --output=trained.json

`tools.pareto --num_retrained` trains one network after the other, each too small to keep a
GPU busy; here dozens are one program (`studies.pytorch.side_by_side`). It needs PyTorch, but
TensorFlow and the data set only to make the file of images, so that file and this repository
are all that a machine with a GPU has to have.

Networks come from the points of a `tools.pareto`, each with the seed of the search that
found it first, from the fronts of an `studies.exact_front`, and from
`studies.rank_accuracy`, spread over the sizes of the space. The output is written after
every `--num_together` networks; the same command, or one with more networks, goes on with it.
On a GPU sums are rounded in any order, so that two runs differ as two seeds do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import write_json
from dance_tf.structs import Architecture
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.space_files import make_space
from studies.begun_report import begun_report
from studies.found_networks import Network, networks_in
from studies.image_file import Images, read_or_make
from studies.rank_accuracy import num_macs, spread_networks, training_settings
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "space", "dataset", "data_dir", "seed")
_FOUND = common.define_path(
    "found", "pareto.json, or a file of exact_front. Repeatable.", FLAGS, is_repeated=True
)
_OBJECTIVES = flags.DEFINE_list(
    "objectives", [], "Only networks that were found for these.", flag_values=FLAGS
)
_LAMBDAS = flags.DEFINE_list(
    "lambdas", [], "Of a pareto.json, only what these values of lambda_2 found.", flag_values=FLAGS
)
_MAX_ERROR = flags.DEFINE_float(
    "max_error", 1.0, "Only networks with an inherited error up to it.", flag_values=FLAGS
)
_NUM_SPREAD = flags.DEFINE_integer(
    "num_spread", 0, "Networks spread over the sizes of the space.", flag_values=FLAGS
)
_IMAGES = common.define_path("images", "NPZ file of the images; made where it is missing.", FLAGS)
_NUM_TOGETHER = flags.DEFINE_integer(
    "num_together", 48, "Networks side by side.", lower_bound=1, flag_values=FLAGS
)
_DEVICE = flags.DEFINE_string("device", "cuda", "Device of PyTorch.", flag_values=FLAGS)
_OUTPUT = common.define_path("output", "JSON file to write, or to go on with.", FLAGS)


def main(argv: list[str]) -> int:
    """Train the networks that the output file lacks."""
    del argv
    common.require(_IMAGES, _OUTPUT)
    config = common.experiment_config(FLAGS)
    settings = training_settings(config)
    report = begun_report(_OUTPUT.value, settings) or {"config": settings, "networks": []}
    lambdas = [_number(text) for text in _LAMBDAS.value]
    found = [
        network
        for path in _FOUND.value
        for network in networks_in(
            path,
            objectives=_OBJECTIVES.value,
            lambdas=lambdas,
            max_error=_MAX_ERROR.value,
            seed=config.seed,
        )
    ]
    images = read_or_make(config, _IMAGES.value)
    space = make_space(config.space, images.num_classes)
    num = _NUM_SPREAD.value
    indices = spread_networks(space, num, config.seed) if num else []
    spread = [Network(space.from_indices(row).ops, config.seed) for row in indices]
    spread_ops = {network.ops for network in spread}
    done = {tuple(row["ops"]) for row in report["networks"]}
    seeds: dict[tuple[str, ...], int] = {}
    for network in spread + found:
        seeds.setdefault(network.ops, network.seed)
    left = [Network(ops, seed) for ops, seed in seeds.items() if ops not in done]
    for start in range(0, len(left), _NUM_TOGETHER.value):
        chunk = left[start : start + _NUM_TOGETHER.value]
        print(f"networks {start + 1} to {start + len(chunk)} of {len(left)}", file=sys.stderr)
        for row in _trained(chunk, space, images, config):
            row["is_spread"] = row["ops"] in spread_ops
            report["networks"].append(row)
        write_json(_OUTPUT.value, report)
    print(f"{_OUTPUT.value}: {len(report['networks'])} networks, {len(left)} of them new")
    return 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--lambdas: {text!r} is not a number") from None


def _trained(
    networks: Sequence[Network], space: NetworkSpace, images: Images, config: ExperimentConfig
) -> list[dict[str, Any]]:
    """Train networks side by side and return their rows."""
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch is not installed: pip install torch") from None
    from dance_tf.run.terminal import progress
    from studies.pytorch.side_by_side_training import train

    if _DEVICE.value.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"PyTorch sees no GPU for --device={_DEVICE.value}")
    # Products of TF32: ten bits of mantissa, sums in float32.
    torch.set_float32_matmul_precision("high")
    indices = np.stack([space.to_indices(Architecture(space.name, n.ops)) for n in networks])
    started = time.monotonic()
    seeds = [network.seed for network in networks]
    try:
        with progress("epochs") as on_epoch:
            trained = train(
                *(space, indices, seeds, images, config.retrain),
                device=_DEVICE.value,
                on_epoch=on_epoch,
            )
    except FloatingPointError as error:
        raise UserError(f"{error}: lower retrain.learning_rate") from error
    is_gpu = torch.device(_DEVICE.value).type == "cuda"
    of_all = {
        "num_together": len(networks),
        "train_s": round(time.monotonic() - started, 1),
        "device": torch.cuda.get_device_name(_DEVICE.value) if is_gpu else "cpu",
        "torch": str(torch.__version__),
    }
    return [
        {
            "ops": network.ops,
            "seed": network.seed,
            "macs": int(macs),
            "accuracy": {
                "split": "test",
                "value": one.test_accuracy,
                "num_images": len(images.test),
            },
            "train_accuracy": one.train_accuracy,
            "train_cross_entropy": one.cross_entropy,
            **of_all,
        }
        for network, macs, one in zip(networks, num_macs(space, indices), trained, strict=True)
    ]


if __name__ == "__main__":
    common.run(main, FLAGS)
