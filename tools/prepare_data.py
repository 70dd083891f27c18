"""Download a TFDS data set and prepare it for the other tools.

Prints a JSON object with the folder and the number of images in each split of the
data set. Does nothing where a complete copy is there already.
"""

from __future__ import annotations

import json

from dance_tf.errors import UserError

from . import flags as common

FLAGS = common.shared_flags("dataset", "data_dir")


def main(argv: list[str]) -> None:
    """Prepare the data set that the flags name."""
    del argv
    common.load_tensorflow()
    from dance_tf.data import datasets

    if not FLAGS["dataset"].value:
        raise UserError("--dataset is missing: name a TFDS data set, such as cifar10")
    data_dir = datasets.resolve_data_dir(FLAGS["data_dir"].value)
    prepared = datasets.prepare(FLAGS["dataset"].value, data_dir)
    result = {"dataset": FLAGS["dataset"].value, "data_dir": data_dir, **prepared._asdict()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    common.run(main, FLAGS)
