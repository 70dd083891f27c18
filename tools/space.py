"""Print a network space as a file, to start one's own from; or say what a space amounts to.

    python -m tools.space --name=cifar_mbconv > mine.json
    python -m tools.space --name=mine.json --check
    python -m tools.search --space=mine.json ... --output_dir=runs/mine

A file is checked as it is read. --check prints the number of networks, and the
multiply-accumulates and parameters of the smallest and of the largest network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from dance_tf.config import SpaceConfig
from dance_tf.files import Json

from . import flags as common

if TYPE_CHECKING:
    from dance_tf.supernet.search_space import NetworkSpace

FLAGS = common.shared_flags()
_NAME = flags.DEFINE_string(
    "name", "cifar_mbconv", "A shipped space, or a path that ends in .json.", flag_values=FLAGS
)
_CHECK = flags.DEFINE_bool("check", False, "Print what the space amounts to.", flag_values=FLAGS)
_NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", 10, "Classes of --check.", lower_bound=2, flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Print the space."""
    del argv
    from dance_tf.supernet.space_files import format_space, make_space, space_data

    data = space_data(_NAME.value)
    space = make_space(SpaceConfig(_NAME.value), _NUM_CLASSES.value)  # refuses what is no chain
    if not _CHECK.value:
        print(format_space(data), end="")
        return
    found = {
        "name": space.name,
        "input_shape": list(space.input_shape),
        "num_blocks": space.num_blocks,
        "num_ops": space.num_ops,
        "ops_of_each_block": space.op_mask.sum(axis=1).tolist(),
        "num_networks": space.num_architectures,
        "smallest": _network(space, 1),
        "largest": _network(space, -1),
    }
    print(format_space(found), end="")


def _network(space: NetworkSpace, sign: int) -> dict[str, Json]:
    """Return the network of the least (sign 1) or most (-1) multiply-accumulates."""
    from dance_tf.hardware.layers import op_macs

    macs = np.where(space.op_mask, sign * op_macs(space)[1], np.inf)
    architecture = space.from_indices(np.argmin(macs, axis=1).tolist())
    layers = space.layers(architecture)
    return {
        "ops": list(architecture.ops),
        "macs": sum(layer.macs for layer in layers),
        "weights": sum(layer.K * layer.C * layer.R * layer.S for layer in layers),
    }


if __name__ == "__main__":
    common.run(main, FLAGS)
