"""Write the report of a finished run, or of a sweep, as an HTML page that needs nothing beside it.

The page of a run has a verdict in words, the network, the accelerator among all others,
exact costs by layer and component, rooflines and mappings, the search's history, the run
beside the best there is, its wrong answers and its exports. That of a sweep has its
fronts, and leads to a report of each search. The tools search and pareto write them too,
as report.html and pareto.html in their folders. Prints the path.
"""

from __future__ import annotations

import os

from dance_tf.errors import UserError

from . import flags as common

FLAGS = common.shared_flags("cache_dir")
_RUN_DIR = common.define_path("run_dir", "Folder of a finished run or of a sweep.", FLAGS)
_OUTPUT = common.define_path(
    "output", "File to write. Otherwise report.html or pareto.html in --run_dir.", FLAGS
)
_BASELINE_DIR = common.define_path(
    "baseline_dir",
    "Folder of a run to compare with, of the same space and hardware: such as one with"
    " search.lambda_2=0. Otherwise the largest network of the space, on its best accelerator.",
    FLAGS,
)


def main(argv: list[str]) -> None:
    """Write the page."""
    del argv
    if not _RUN_DIR.value:
        raise UserError("--run_dir is missing: name the folder of a finished run")
    for flag in (_RUN_DIR, _BASELINE_DIR):
        if flag.value and not os.path.isdir(flag.value):
            raise UserError(f"--{flag.name}={flag.value}: no such folder")

    common.load_tensorflow()
    from dance_tf.report.page import write_report
    from dance_tf.report.sweep_folder import is_sweep
    from dance_tf.report.sweep_page import write_sweep_page

    output = _OUTPUT.value
    if is_sweep(_RUN_DIR.value):
        if _BASELINE_DIR.value:
            raise UserError("--baseline_dir is for the report of a run: a sweep has its own")
        print(write_sweep_page(_RUN_DIR.value, output, cache_dir=FLAGS["cache_dir"].value))
        return
    print(
        write_report(
            _RUN_DIR.value,
            output,
            baseline_dir=_BASELINE_DIR.value,
            cache_dir=FLAGS["cache_dir"].value,
        )
    )


if __name__ == "__main__":
    common.run(main, FLAGS)
