"""Network as a SavedModel that takes images as they are stored, of any size.

Crop, change of size and range of values are computed inside, by the operations that
prepared the images of the training. It is compared with those images before it is kept.
"""

from __future__ import annotations

import dataclasses
import os
import shutil

import keras
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.export.description import DESCRIPTION_FILE, FLOAT_TOLERANCE, describe
from dance_tf.export.networks import load_network, sample_images
from dance_tf.export.serving import SIGNATURE, ServedModel, check_servable, staging_folder
from dance_tf.export.signatures import call_by_name, input_specs, output_specs
from dance_tf.files import Json, read_json, strict_data, write_json
from dance_tf.protocols import ImageDataset

__all__ = ["FOLDER", "export_with_preprocessing"]

#: Name of the SavedModel in the folder of exports, and of its entry in export.json.
FOLDER = "saved_model_with_preprocessing"

_NUM_COMPARED = 32


def export_with_preprocessing(dataset: ImageDataset, exports: str) -> str:
    """Write the network of a folder of exports once more, with the preparation of its images.

    Its input is called `images`: [B, H, W, C] of the type and range that they are stored in,
    of any height and width (of series, [B, T, C]).

    Args:
        dataset: Data that the network was trained on.
        exports: Folder of `networks.export_network`; its export.json gains an entry.
    Returns:
        Path of the SavedModel.
    Raises:
        UserError: If the network is not there, or the data do not know how they are prepared.
        RuntimeError: If it does not give what the network gives for prepared images.
    """
    network = load_network(os.path.join(exports, "network.keras"))
    way = getattr(dataset, "preprocessing", None)
    if way is None:
        raise UserError(f"{dataset.name}: tells no way from stored images to the network's input")
    images, _ = sample_images(dataset, "test", _NUM_COMPARED)
    expected = np.asarray(network(images, training=False))
    spec = tf.TensorSpec(way.spec.shape, way.spec.dtype, name="images")
    (name,) = input_specs(network)

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        prepared = tf.ensure_shape(way.apply(inputs["images"]), [None, *images.shape[1:]])
        return call_by_name(network, {name: prepared})

    path = os.path.join(exports, FOLDER)
    with staging_folder(os.path.abspath(exports)) as staging:
        aside = os.path.join(staging, FOLDER)
        archive = keras.export.ExportArchive()
        archive.track(network)
        archive.add_endpoint(SIGNATURE, tf.function(serve, input_signature=[{"images": spec}]))
        archive.write_out(aside, verbose=False)
        check_servable(aside)
        served = ServedModel(aside)
        found = [served(images=image[None])["logits"] for image in way.stored(len(images))]
        entry = _compared(np.concatenate(found), expected)
        extra = os.path.join(aside, "assets.extra")
        os.makedirs(extra)
        description = _description(dataset, network, spec)
        write_json(os.path.join(extra, DESCRIPTION_FILE), description)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(aside, path)
    export_json = os.path.join(exports, "export.json")
    entry = {"path": path, "inputs": description["inputs"]["specs"], **entry}
    write_json(export_json, {**read_json(export_json), FOLDER: entry})
    return path


def _compared(found: np.ndarray, expected: np.ndarray) -> dict[str, Json]:
    difference = float(np.abs(found - expected).max())
    relative = difference / max(1.0, float(np.abs(expected).max()))
    if not relative <= FLOAT_TOLERANCE:  # not a number is not good either
        raise RuntimeError(
            f"the export {FOLDER} differs from the network by {relative:g} on the images of the"
            " test split; nothing kept"
        )
    return {"num_images": len(found), "max_difference": difference}


def _description(
    dataset: ImageDataset, network: keras.Model, spec: tf.TensorSpec
) -> dict[str, Json]:
    """Return the description of a network that takes stored images as they are."""
    inputs = dataset.input_description
    inside = dataclasses.replace(inputs, value_range=inputs.source_range, resize=None, crop=None)
    described = describe({"images": spec}, output_specs(network), inside, None)
    for axis, size in zip(("height", "width"), spec.shape[1:], strict=False):
        if size is None:
            described["inputs"] |= {axis: None, f"{axis}_reason": "any: brought to size inside"}
    return strict_data(described)
