"""Loss of accuracy in 8-bit words, and what a quantisation-aware fine-tune recovers.

    python -m studies.int8_accuracy --preset=cifar10_small --supernet=superkernel \\
        --set=search.supernet_dir=saved_models/supernet_cifar_mbconv_small \\
        --set=retrain.initial_weights=inherited --set=retrain.epochs=1 \\
        --set=retrain.quantisation_epochs=1 --ops=mbconv3_e3,... \\
        --work_dir=runs/int8 --output=int8_accuracy.json

For drawn networks with inherited weights: the accuracy on held-out images in float, in fake
words of 16 and 8 bits, and of the int8 TFLite network. For a network that is retrained: the same
on test images, and after the fine-tune, whether or not the product would have one. It is
measured twice, as it is and with one channel of its first stage made larger and its readers
smaller by the same factor: the same function in float, but a range that wastes most words of 8
bits. Killed anywhere, the same command goes on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from dance_tf.files import read_json, write_json
from tools import flags as common

if TYPE_CHECKING:
    import keras

    from dance_tf.structs import Architecture
    from dance_tf.supernet.search_space import NetworkSpace

FLAGS = common.shared_flags("preset", "config", "set", "dataset", "data_dir", "supernet", "seed")
_WORK_DIR = common.define_path("work_dir", "Folder of the trainings.", FLAGS)
_OUTPUT = common.define_path("output", "JSON file to write.", FLAGS)
_NUM_INHERITED = flags.DEFINE_integer(
    "num_inherited", 3, "Networks with inherited weights.", lower_bound=1, flag_values=FLAGS
)
_OPS = flags.DEFINE_list("ops", None, "Ops of the network that is retrained.", flag_values=FLAGS)
_FACTOR = flags.DEFINE_float("factor", 48, "Factor of the large channel.", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Measure what is missing, and write what was found."""
    del argv
    common.require(_WORK_DIR, _OUTPUT, _OPS)
    config = common.experiment_config(FLAGS)
    common.load_tensorflow()
    from dance_tf.run.surroundings import make_deterministic
    from dance_tf.search.pipeline import load_space_and_images
    from dance_tf.search.retrain import fine_tune, retrain
    from dance_tf.search.supernet_training import load_supernet
    from dance_tf.structs import Architecture
    from dance_tf.supernet.inherited import InheritedAccuracy

    make_deterministic(config.seed)
    space, dataset = load_space_and_images(config)
    supernet = load_supernet(str(config.search.supernet_dir), space, dataset, config)
    report: dict[str, Any] = {"space": space.name, "inherited": [], "retrained": []}
    if os.path.exists(_OUTPUT.value):
        report = read_json(_OUTPUT.value)
    report |= {
        "retrain_epochs": config.retrain.epochs,
        "quantisation_epochs": config.retrain.quantisation_epochs,
        "factor": _FACTOR.value,
    }
    inherited = InheritedAccuracy(supernet, dataset, 1)
    rows = space.sample(_NUM_INHERITED.value, config.seed)
    for row in rows[len(report["inherited"]) :]:
        network = inherited.network(row)
        found = {"ops": list(space.from_indices(row.tolist()).ops)}
        report["inherited"].append(found | _accuracies(network, dataset, "architecture"))
        print(report["inherited"][-1], flush=True)
        write_json(_OUTPUT.value, report)
    architecture = space.validate(Architecture(space.name, tuple(_OPS.value)))
    arguments = (dataset, config.retrain, config.seed)
    trained = retrain(
        space, architecture, *arguments, _WORK_DIR.value, supernet=supernet, resume=True
    )
    for factor in (1.0, _FACTOR.value)[len(report["retrained"]) :]:
        network = with_large_channel(space, architecture, trained.network, factor)
        folder = os.path.join(_WORK_DIR.value, f"factor_{factor:g}")
        tuned = fine_tune(space, architecture, network, *arguments, folder, resume=True)
        report["retrained"].append(
            {
                "ops": list(architecture.ops),
                "factor": factor,
                "before": _accuracies(network, dataset, "test"),
                "after": _accuracies(tuned, dataset, "test"),
            }
        )
        print(report["retrained"][-1], flush=True)
        write_json(_OUTPUT.value, report)
    return 0


def with_large_channel(
    space: NetworkSpace, architecture: Architecture, network: keras.Model, factor: float
) -> keras.Model:
    """Return the same function with a channel of the first stage made larger by a factor.

    The blocks that write the channel scale it, in their last normalisation, and those that read
    it, the first of the next stage too, scale it back in the kernel of their expansion.
    """
    from dance_tf.supernet.supernet import build_network

    copy = build_network(space, architecture)
    copy.set_weights(network.get_weights())
    channels, is_first = space.blocks[0].out_channels, True
    for index, (block, op) in enumerate(zip(space.blocks, architecture.ops, strict=True)):
        if op == "zero":
            continue
        prefix = f"block{index}_{op}"
        if not is_first:
            (kernel,) = copy.get_layer(f"{prefix}_expand").get_weights()
            kernel[:, :, 0] /= factor
            copy.get_layer(f"{prefix}_expand").set_weights([kernel])
        is_first = False
        if block.out_channels != channels:
            return copy
        gamma, beta, *statistics = copy.get_layer(f"{prefix}_project_bn").get_weights()
        gamma[0] *= factor
        beta[0] *= factor
        copy.get_layer(f"{prefix}_project_bn").set_weights([gamma, beta, *statistics])
    raise AssertionError("a space of one stage has no reader of it")


def _accuracies(network: keras.Model, dataset: Any, split: str) -> dict[str, float]:
    """Return accuracies of a network in float and in few bits, and how often two answers agree."""
    import tensorflow as tf

    from dance_tf.export.int8 import as_int8, fake_quantised
    from dance_tf.export.networks import sample_images
    from dance_tf.search.predictions import infer, logits_of

    calibration, _ = sample_images(dataset, "train", 200)
    functions = {"float": infer(network)} | {
        f"fake_{bits}": tf.function(fake_quantised(network, bits), reduce_retracing=True)
        for bits in (16, 8)
    }
    labels, answers = np.zeros(0), {}
    with as_int8(network, calibration) as classifier:
        for name, function in (*functions.items(), ("int8", classifier.predict)):
            parts = [(y, z.argmax(axis=-1)) for _, y, z in logits_of(function, dataset, split)]
            labels, answers[name] = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {
        "num_images": len(labels),
        **{name: float(np.mean(answer == labels)) for name, answer in answers.items()},
        **{
            f"agreement_{name}": float(np.mean(answers[name] == answers["int8"]))
            for name in ("float", "fake_8")
        },
        "agreement_fake_16": float(np.mean(answers["fake_16"] == answers["float"])),
    }


if __name__ == "__main__":
    common.run(main, FLAGS)
