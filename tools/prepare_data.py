"""Prepare a data set for the other tools: one of TFDS, downloaded, or one of your own builder.

A builder of your own is named by its module and class: --data=my_module.MyBuilder. Prints
a JSON object with the folder and the number of images in each split of the data set. Does
nothing where a complete copy is there already.
"""

from __future__ import annotations

import json

from dance_tf.config import DataConfig
from dance_tf.errors import UserError

from . import flags as common

FLAGS = common.shared_flags("dataset", "data", "data_dir")


def main(argv: list[str]) -> None:
    """Prepare the data set that the flags name."""
    del argv
    dataset, data = FLAGS["dataset"].value, FLAGS["data"].value
    if bool(dataset) == bool(data):
        raise UserError(
            "give one of --dataset, a TFDS data set such as cifar10, and --data, the module and"
            " class of a builder"
        )
    if data and DataConfig(path=data).builder is None:
        raise UserError(f"--data={data}: files of your own need no preparation")
    common.load_tensorflow()
    from dance_tf.data import tfds_sets
    from dance_tf.data.prepared import resolve_data_dir

    data_dir = resolve_data_dir(FLAGS["data_dir"].value)
    name = str(data or dataset)
    prepare = tfds_sets.prepare_with if data else tfds_sets.prepare
    prepared = prepare(name, data_dir)
    result = {"dataset": name, "data_dir": data_dir, **prepared._asdict()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    common.run(main, FLAGS)
