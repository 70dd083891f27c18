"""Print a table of energy and area figures as JSON, to look at or to start one's own from.

    python -m tools.show_technology --name=cacti_45nm > mine.json

Change the figures, their sources, the name and the width of a word, and give the file to
any tool as --set=hardware.machine.technology=mine.json (with hardware.machine.word_bits,
where it is not 16). Given a file of one's own, the tool checks it and prints it in order.
Rows without the effect that they seem to have are noted on stderr.
"""

from __future__ import annotations

from absl import flags

from dance_tf.config import MachineConfig
from dance_tf.run.terminal import note

from . import flags as common

FLAGS = common.shared_flags()
_NAME = flags.DEFINE_string(
    "name",
    "cacti_45nm",
    "A shipped technology (cacti_45nm, accelergy_2020_45nm), or a path that ends in .json.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Print the table."""
    del argv
    from dance_tf.hardware.technology import format_technology, technology

    table = technology(_NAME.value)
    print(format_technology(table), end="")
    for text in table.notes(MachineConfig().accounting):
        note(f"note: {text}")


if __name__ == "__main__":
    common.run(main, FLAGS)
