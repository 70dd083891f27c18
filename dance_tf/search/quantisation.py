"""Accuracy in 8-bit words: of the int8 TFLite network, as it is or after a fine-tune.

An accelerator with 8-bit words runs the int8 network, so its accuracy is the one that counts
there. Words of 16 bits are taken to lose nothing.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import ArrayLike

from dance_tf.config import HardwareConfig, RetrainConfig
from dance_tf.export.int8 import as_int8
from dance_tf.export.networks import export_network, sample_images
from dance_tf.export.tflite import TFLiteClassifier
from dance_tf.files import Json
from dance_tf.protocols import ImageDataset
from dance_tf.run import terminal
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.predictions import accuracy_of, infer
from dance_tf.search.result import Accuracy, Int8Accuracy
from dance_tf.search.retrain import RetrainResult, fine_tune
from dance_tf.structs import Accelerator, Architecture
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.supernet import Supernet

__all__ = [
    "MAX_LOSS",
    "Finished",
    "finish",
    "inherited_int8_accuracies",
    "judged_accuracy",
    "may_have_8_bits",
    "word_bits_of",
]

#: Share of images that post-training quantisation may lose before a fine-tune is worth its time.
MAX_LOSS = 0.003

_NUM_CALIBRATION_IMAGES = 200
_NUM_COMPARED_IMAGES = 200


class Finished(NamedTuple):
    """Accuracies of a retrained network, and the report of its export."""

    accuracy: Accuracy  # with the accelerator's words
    int8_accuracy: Int8Accuracy | None  # None where nothing asked for it
    exports: dict[str, Json] | None  # as export.json


def finish(
    space: NetworkSpace,
    architecture: Architecture,
    trained: RetrainResult,
    dataset: ImageDataset,
    config: RetrainConfig,
    seed: int,
    output_dir: str | None,
    *,
    word_bits: int = 16,
    exports: str | None = None,
    resume: bool = False,
    stop: StopSignals | None = None,
) -> Finished:
    """Judge a retrained network by the words that it will run in, and export it.

    The int8 network is measured where it is exported, where words have 8 bits, and where
    `config.quantisation_epochs` asks for a fine-tune. There is one if post-training
    quantisation loses more than MAX_LOSS on the split `architecture`, and it is kept if it
    gains there; the test images, all of them, say nothing but the accuracies.

    Args:
        space: Network space.
        architecture: Network of the space that was trained.
        trained: Its training.
        dataset: Images of the space's input size.
        config: Schedule of the training.
        seed: Seed of the order of images.
        output_dir: Run folder, for checkpoints and lines of a fine-tune; None writes nothing.
        word_bits: Width of the accelerator's words, bits.
        exports: Folder of the exported files; None writes none.
        resume: Whether to go on from the newest checkpoint of a fine-tune, if there is one.
        stop: Signals to honour at the next step boundary of a fine-tune.
    Raises:
        UserError, Interrupted: See `retrain` and `export_network`.
    """
    network, int8, report = trained.network, None, None
    if config.quantisation_epochs or (word_bits == 8 and exports is None):
        int8, seen = _measured(network, trained.accuracy, dataset)
        lost = accuracy_of(infer(network), dataset, "architecture").value - seen
        if config.quantisation_epochs and lost > MAX_LOSS:
            tuned = fine_tune(
                space,
                architecture,
                network,
                dataset,
                config,
                seed,
                output_dir,
                resume=resume,
                stop=stop,
            )
            after, seen_after = _measured(tuned, trained.accuracy, dataset)
            int8 = dataclasses.replace(int8, fine_tuned_value=after.value)
            if seen_after > seen:
                network, int8 = tuned, dataclasses.replace(int8, value=after.value)
    if exports is not None:
        terminal.begin_stage("export")
        report = _export(trained.network, network, dataset, exports)
        if int8 is None:
            classifier = TFLiteClassifier(report["tflite_int8"]["path"])
            int8 = _int8_accuracy(classifier, trained.accuracy, dataset)
    judged = judged_accuracy(trained.accuracy, int8, word_bits)
    return Finished(judged, int8, report)


def word_bits_of(hardware: HardwareConfig, accelerator: Accelerator) -> int:
    """Return the width of an accelerator's words, bits: its own, or that of the machine."""
    return getattr(accelerator, "word_bits", None) or hardware.machine.word_bits


def may_have_8_bits(hardware: HardwareConfig) -> bool:
    """Return whether accelerators of the hardware may have 8-bit words."""
    searched = getattr(hardware.accelerators, "word_bits", ()) or (hardware.machine.word_bits,)
    return 8 in searched


def judged_accuracy(
    accuracy: Accuracy, int8_accuracy: Int8Accuracy | None, word_bits: int
) -> Accuracy:
    """Return the accuracy of a network in words of so many bits: int8 at 8, else in float.

    Args:
        accuracy: Accuracy in float.
        int8_accuracy: Accuracy in 8-bit words; asked for where words have 8 bits.
        word_bits: Width of the accelerator's words, bits.
    """
    if word_bits != 8:
        return accuracy
    assert int8_accuracy is not None, "measured wherever words have 8 bits"
    return dataclasses.replace(accuracy, value=int8_accuracy.value)


def inherited_int8_accuracies(
    supernet: Supernet,
    dataset: ImageDataset,
    op_indices: ArrayLike,
    num_images: int,
    split: str = "architecture",
) -> tuple[Int8Accuracy, ...]:
    """Return the accuracies of networks with inherited weights in 8-bit words and in float.

    Their `points_lost` say what 8-bit words cost before anything is retrained. A network of
    `cifar_mbconv_small` takes about ten seconds of a core, most of them for the conversion.

    Args:
        supernet: Trained supernet; left as it is.
        dataset: Images; the ranges are calibrated on `train`.
        op_indices: Ops of the networks, int32 [B, D].
        num_images: Number of images to judge on, at most all.
        split: Split of these images.
    """
    inherited = InheritedAccuracy(supernet, dataset, num_images, split)
    images, labels = sample_images(dataset, split, num_images)
    calibration, _ = sample_images(dataset, "train", _NUM_CALIBRATION_IMAGES)
    found = []
    rows = np.asarray(op_indices)
    for row, in_float in zip(rows, inherited(rows).tolist(), strict=True):
        with as_int8(inherited.network(row), calibration) as classifier:
            value = classifier.accuracy(images, labels)
        found.append(Int8Accuracy(split, value, inherited.num_images, in_float, value))
    return tuple(found)


def _measured(
    network: keras.Model, in_float: Accuracy, dataset: ImageDataset
) -> tuple[Int8Accuracy, float]:
    """Return the accuracy of a network's int8 twin, and the share right of `architecture`."""
    calibration, _ = sample_images(dataset, "architecture", _NUM_CALIBRATION_IMAGES)
    with as_int8(network, calibration) as classifier:
        seen = accuracy_of(classifier.predict, dataset, "architecture").value
        return _int8_accuracy(classifier, in_float, dataset), seen


def _int8_accuracy(
    classifier: TFLiteClassifier, in_float: Accuracy, dataset: ImageDataset
) -> Int8Accuracy:
    found = accuracy_of(classifier.predict, dataset, in_float.split)
    return Int8Accuracy(
        found.split, found.value, found.num_images, in_float.value, post_training_value=found.value
    )


def _export(
    network: keras.Model, int8_network: keras.Model, dataset: ImageDataset, folder: str
) -> dict[str, Json]:
    calibration, _ = sample_images(dataset, "architecture", _NUM_CALIBRATION_IMAGES)
    images, labels = sample_images(dataset, "test", _NUM_COMPARED_IMAGES)
    return export_network(
        network,
        folder,
        calibration_images=calibration,
        test_images=images,
        test_labels=labels,
        inputs=getattr(dataset, "input_description", None),
        int8_model=None if int8_network is network else int8_network,
    )
