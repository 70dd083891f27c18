"""Report of a run, report.html: its template, filled from a run folder and the exact table."""

from __future__ import annotations

import contextlib
import os
import pathlib

import jinja2

from dance_tf.errors import UserError
from dance_tf.files import write_text
from dance_tf.hardware.cost_table import CostTable, load_or_build_table
from dance_tf.report import outcome, roofline, sections
from dance_tf.report.exact import ExactParts, exact_parts
from dance_tf.report.roofline import MappedNetwork, map_network, roofline_rows, rooflines
from dance_tf.report.run_folder import Run, read_run
from dance_tf.report.texts import accelerator_name, duration, number
from dance_tf.report.verdict import verdict
from dance_tf.run import terminal
from dance_tf.run.folder_lock import owned

__all__ = ["REPORT_NAME", "environment", "render", "table_of", "write_report"]

#: Name of the page in its run folder.
REPORT_NAME = "report.html"

# Sections of the page: identifier and title.
_CONTENTS = (
    ("network", "Network"),
    ("accelerator", "Accelerator"),
    ("costs", "Exact cost by component and layer"),
    ("accelerators", "All accelerators"),
    ("roofline", "Rooflines and mappings"),
    ("predicted", "Predicted beside exact"),
    ("best", "Against the best there is"),
    ("search", "Search"),
    ("retraining", "Retraining"),
    ("predictions", "Right and wrong answers"),
    ("exports", "Exports"),
    ("origin", "How it came about"),
)

_NO_CLASSES = "the run does not say how many classes its images have"

# Data that a dataflow keeps in place.
_DATAFLOWS = {
    "weight_stationary": "weights stay in the register files longest",
    "output_stationary": "outputs stay in the register files longest",
    "row_stationary": "rows of filters and inputs stay in the register files longest",
}


def write_report(
    run_dir: str,
    path: str | None = None,
    *,
    baseline_dir: str | None = None,
    table: CostTable | None = None,
    cache_dir: str | None = None,
) -> str:
    """Write the report of a finished run and return its path.

    Args:
        run_dir: Folder of the run.
        path: File to write; None: report.html in the folder.
        baseline_dir: Folder of a run to compare with, in place of the largest network.
        table: The run's table; None: the one that its config asks for.
        cache_dir: Folder of cached tables; a table that is not there is built.
    Raises:
        UserError: If a folder holds no finished run, or a damaged one, or if the baseline
            is of other costs than the run.
    """
    run = read_run(run_dir)
    baseline = None if baseline_dir is None else _baseline(run, baseline_dir)
    try:
        exact: ExactParts | str = _exact_parts(run, table, cache_dir)
    except UserError as error:  # such as a measured table that is not there any more
        exact = str(error)
    mapped = _mapped_network(run)
    try:
        text = render(run, exact, baseline, mapped)
    except (AttributeError, KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        # Fields that every run has are checked; all others may be anything in a damaged file.
        raise UserError(f"{run.folder}: a file holds what no run writes ({error})") from error
    # A page elsewhere leaves the run's folder as it is.
    with owned(run.folder, is_waiting=True) if path is None else contextlib.nullcontext():
        path = path or os.path.join(run.folder, REPORT_NAME)
        write_text(path, text)
    return path


def render(
    run: Run,
    exact: ExactParts | str,
    baseline: Run | None = None,
    mapped: MappedNetwork | str = "the mappings were not asked for",
) -> str:
    """Return the page.

    Args:
        run: Run to report on.
        exact: Exact costs of its network, or why there are none.
        baseline: Run to compare with; None: the largest network of the space.
        mapped: Best mappings of the layers, or why there are none.
    """
    template = environment().get_template("report.html.jinja")
    return template.render(_context(run, exact, baseline, mapped))


def environment() -> jinja2.Environment:
    """Return the environment that fills the templates of this folder."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,  # names of folders and data sets are a user's texts
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "duration": duration, "as_set": "{:g}".format}
    return made


def table_of(run: Run, cache_dir: str | None = None) -> CostTable:
    """Return the cost table of a run's space and hardware, built if it is not cached.

    Raises:
        UserError: If the table cannot be had any more.
    """
    with terminal.progress("cost table") as report:
        return load_or_build_table(
            run.space, run.config.hardware, cache_dir=cache_dir, on_progress=report
        )


def _exact_parts(run: Run, table: CostTable | None, cache_dir: str | None) -> ExactParts:
    if not run.is_space_known:
        raise UserError(_NO_CLASSES)
    return exact_parts(run, table_of(run, cache_dir) if table is None else table)


def _mapped_network(run: Run) -> MappedNetwork | str:
    if run.config.hardware.measured_csv is not None:
        return "the costs were measured, which tells nothing of mappings"
    if not run.is_space_known:
        return _NO_CLASSES
    try:
        layers = run.space.layers(run.architecture)
        return map_network(layers, run.accelerator, run.config.hardware.machine)
    except UserError as error:  # such as a technology file that is not there any more
        return str(error)


def _baseline(run: Run, folder: str) -> Run:
    baseline = read_run(folder)
    hashes = [r.info.get("cost_table_sha256") for r in (run, baseline)]
    if hashes[0] != hashes[1]:
        raise UserError(
            f"{baseline.folder}: its costs are of another space, machine or cost model than"
            f" those of {run.folder}, so the two cannot be compared"
        )
    return baseline


def _context(
    run: Run, exact: ExactParts | str, baseline: Run | None, mapped: MappedNetwork | str
) -> dict[str, object]:
    """Return what the template shows."""
    parts = None if isinstance(exact, str) else exact
    network = None if isinstance(mapped, str) else mapped
    machine = run.config.hardware.machine
    return {
        "contents": _CONTENTS,
        "run": run,
        "result": run.result,
        "info": run.info,
        "times": run.result.get("times") or {},
        "exact_cost": run.costs["exact_cost"],
        "accelerator_name": accelerator_name(run.result["accelerator"]),
        "dataflow": _DATAFLOWS[run.accelerator.dataflow],
        "machine": machine,
        "exact": parts,
        "exact_reason": exact if isinstance(exact, str) else None,
        "verdict": verdict(run, parts, baseline),
        "scatter": None if parts is None else roofline.accelerator_scatter(run, parts),
        "front": [] if parts is None else roofline.front_rows(run, parts),
        "mapped": network,
        "mapped_reason": mapped if isinstance(mapped, str) else None,
        "rooflines": [] if network is None else rooflines(network),
        "roofline_rows": [] if network is None else roofline_rows(network),
        "exports": outcome.exports(run),
        "confusion": outcome.confusion(run),
        "blocks": sections.network_blocks(run, parts),
        "array": sections.array_drawing(run, parts),
        "area_shares": None
        if parts is None or parts.area_um2 is None
        else sections.shares(parts.area_um2, 1e-6),
        "by_layer": None if parts is None else sections.cost_by_layer(parts),
        "limits": sections.limits(run),
        "prediction": sections.prediction(run),
        "comparison": sections.comparison(run, parts, baseline),
        "mixture": sections.mixture_at_the_end(run),
        "search_charts": outcome.search_charts(run),
        "dataflow_spans": outcome.dataflow_spans(run),
        "retraining_charts": outcome.retraining_charts(run),
    }
