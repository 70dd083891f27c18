"""Flags that tools share, the configuration they make, and the way a tool ends.

A tool has its own `flags.FlagValues`, so that any number of tools can be imported
in one process, by any path, and no flag is defined twice:

    from absl import flags
    from . import flags as common

    FLAGS = common.shared_flags(*common.EXPERIMENT, "output_dir")
    _REFERENCE = common.define_path("reference", "Help.", FLAGS)

    def main(argv):
        del argv  # Always the program's name alone.
        config = common.experiment_config(FLAGS)  # Mistakes show before the wait.
        common.load_tensorflow()
        from dance_tf import data  # What needs TensorFlow is imported here.
        ...

    if __name__ == "__main__":
        common.run(main, FLAGS)
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from absl import flags

from dance_tf.config import DataConfig, ExperimentConfig, config_from_json, override
from dance_tf.config_effects import changed_fields, without_effect
from dance_tf.errors import Interrupted, UserError
from dance_tf.files import local_path, read_json, system_error
from dance_tf.presets import PRESETS, preset
from dance_tf.run import terminal
from dance_tf.run.folder_lock import owned
from dance_tf.version import __version__

from .help_texts import asks_for_version, help_config, help_text
from .path_flags import define_data, define_path

__all__ = [
    "EXPERIMENT",
    "call",
    "check_effects",
    "define_path",
    "experiment_config",
    "load_tensorflow",
    "output_dir",
    "require",
    "run",
    "shared_flags",
    "start_from_config_in",
]

# Read by TensorFlow when a tool imports it, which is later than this line.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

#: Names of the shared flags that make an ExperimentConfig, and of the table's cache.
EXPERIMENT = (
    *("preset", "config", "set", "seed"),
    *("space", "dataset", "data", "data_dir", "evaluator", "cache_dir"),
)

_STRINGS = {
    "preset": f"Configuration to start from: {', '.join(PRESETS)}. Without --config: digits.",
    "config": "JSON file to start from, such as the config.json of an earlier run.",
    "space": "Network space, a shipped name or a .json file, short for --set=space.name=NAME.",
    "dataset": "digits (embedded) or the name of a TFDS image-classification data set.",
    "data": (
        "Data of your own, in place of --dataset: a folder of class folders, a .csv file of path"
        " and label, a .npz file or folder of .npy files, prepared TFDS data, or a builder as"
        " package.module.Builder."
    ),
    "data_dir": "Folder of prepared TFDS data sets. Otherwise TFDS_DATA_DIR, otherwise TFDS's own.",
    "cache_dir": "Folder where cost tables are kept between runs.",
    "output_dir": "Folder to write results to.",
    "fixed_accelerator": (
        "Search the network alone, for this accelerator: fields with commas, such as"
        " pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary, or a JSON file."
    ),
}

#: All shared flags; --help lists them last.
_SHARED = {*_STRINGS, *EXPERIMENT, "supernet", "resume", "help_config", "verbosity"}

# Of each tool that `call` is running, the folders that it owns until it ends.
_owned: list[contextlib.ExitStack] = []

#: Those of them that are paths. --data_dir is checked with the variable that may replace it.
_PATHS = ("config", "cache_dir", "output_dir")


def shared_flags(*names: str) -> flags.FlagValues:
    """Return the flags of one tool: those that every tool has, and the shared ones named."""
    values = flags.FlagValues()
    flags.DEFINE_integer(
        "verbosity",
        0,
        "What is told on stderr: 0 all; -1 no notes and no progress; -2 no warnings either, so"
        " that errors alone remain; 1 the lines of TensorFlow and other libraries too.",
        lower_bound=-2,
        upper_bound=1,
        flag_values=values,
    )
    if "set" in names:
        flags.DEFINE_boolean(
            "help_config",
            False,
            "Print every field of the configuration that the other flags make, with its value,"
            " type, range and meaning, and end.",
            flag_values=values,
        )
    for name in names:
        if name in _PATHS:
            define_path(name, _STRINGS[name], values)
        elif name == "data":
            define_data(_STRINGS[name], values)
        elif name in _STRINGS:
            flags.DEFINE_string(name, None, _STRINGS[name], flag_values=values)
        elif name == "set":
            flags.DEFINE_multi_string(
                name,
                [],
                "Change one field of the configuration, such as --set=search.epochs=2. Repeatable.",
                flag_values=values,
            )
        elif name == "seed":
            flags.DEFINE_integer(
                name,
                None,
                "Seed of everything random.",
                lower_bound=0,
                upper_bound=2**31 - 1,
                flag_values=values,
            )
        elif name == "evaluator":
            flags.DEFINE_enum(
                name,
                None,
                ["auto", "neural", "exact"],
                "Cost during the search: the trained networks, or the whole table; auto, the"
                " default, takes the table where the networks that come with the code do not fit.",
                flag_values=values,
            )
        elif name == "supernet":
            flags.DEFINE_enum(
                name,
                None,
                ["proxyless", "superkernel"],
                "Whether each candidate op has weights of its own, or all are slices of the"
                " largest.",
                flag_values=values,
            )
        elif name == "resume":
            flags.DEFINE_boolean(
                name,
                False,
                "Go on from the last checkpoint in --output_dir.",
                flag_values=values,
            )
        else:
            raise KeyError(name)
    return values


def experiment_config(values: flags.FlagValues) -> ExperimentConfig:
    """Return the configuration that parsed flags ask for.

    A preset or a file, then each --set in order, then the flags that name one field.

    Raises:
        UserError: On an unknown name, a bad value, or a file that cannot be read.
    """
    names = (*EXPERIMENT, "supernet")
    given: dict[str, Any] = {name: values[name].value for name in names if name in values}
    if given.get("config") and given.get("preset"):
        raise UserError("--preset and --config both say where to start: give one of them")
    if given.get("config"):
        config = config_from_json(read_json(given["config"]))
    else:
        config = preset(given.get("preset") or "digits")
    config = override(config, given.get("set") or [])
    if given.get("space") is not None:
        space = dataclasses.replace(config.space, name=given["space"])
        config = dataclasses.replace(config, space=space)
    if given.get("dataset") and given.get("data"):
        raise UserError("--dataset and --data both name the data: give one of them")
    data = {k: given[k] for k in ("dataset", "data_dir") if given.get(k) is not None}
    # Each takes the place of the other in a file.
    if given.get("data"):
        data |= {"path": given["data"], "dataset": DataConfig().dataset}
    elif "dataset" in data:
        data["path"] = None
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
    if given.get("evaluator") is not None:
        evaluator = dataclasses.replace(config.evaluator, kind=given["evaluator"])
        config = dataclasses.replace(config, evaluator=evaluator)
    if given.get("supernet") is not None:
        search = dataclasses.replace(config.search, supernet=given["supernet"])
        config = dataclasses.replace(config, search=search)
    if given.get("seed") is not None:
        config = dataclasses.replace(config, seed=given["seed"])
    return config


#: Shared flags that set one field.
_FIELD_OF = {
    "space": "space.name",
    "dataset": "data.dataset",
    "data": "data.path",
    "data_dir": "data.data_dir",
    "evaluator": "evaluator.kind",
    "supernet": "search.supernet",
    "seed": "seed",
}


def check_effects(
    config: ExperimentConfig,
    job: str,
    values: flags.FlagValues,
    *,
    fields: Iterable[str] = (),
    retrains: bool = True,
    unread: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Warn of fields that the flags set in vain; return the warnings.

    Args:
        config: Configuration that the flags made.
        job: Tool, a key of config_effects.JOBS.
        values: Its flags.
        fields: Set by flags of the tool's own.
        retrains: Whether the run ends in a retraining.
        unread: Groups that this run does not read, and what it would take.
    Raises:
        UserError: If the result would be taken for another's.
    """
    named = {assignment.partition("=")[0].strip() for assignment in values["set"].value or ()}
    named |= {field for name, field in _FIELD_OF.items() if name in values and values[name].present}
    in_file = changed_fields(config) if values["config"].present else ()
    lines = without_effect(
        config, job, named.union(fields), in_file, retrains=retrains, unread=unread
    )
    for line in lines:
        terminal.warn(line)
    return tuple(lines)


def start_from_config_in(folder: str, values: flags.FlagValues) -> None:
    """Take the config.json of a run's folder where the flags ask for no other start."""
    path = os.path.join(folder, "config.json")
    if os.path.exists(path) and not (values["config"].value or values["preset"].value):
        values["config"].value = path


def output_dir(
    values: flags.FlagValues,
    name: str = "output_dir",
    *,
    is_owned: bool = True,
    is_waiting: bool = False,
) -> str:
    """Return the absolute path of a flag's folder, `~` expanded, owned until the tool ends.

    Args:
        values: The tool's flags.
        name: The flag's.
        is_owned: Without it nothing is made: of a tool that renames a whole folder to it.
        is_waiting: Wait where another process owns the folder, as one may that soon ends.
    Raises:
        UserError: If the flag is missing, is no folder, or another process owns it.
    """
    given = values[name].value
    if not given:
        raise UserError(f"--{name} is missing: name the folder to write results to")
    path = local_path(given, f"--{name}")
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"--{name}={path} is a file: name a folder")
    if _owned and is_owned:
        _owned[-1].enter_context(owned(path, is_waiting=is_waiting))
    return path


def require(*given: flags.FlagHolder) -> None:
    """Refuse a command line without one of these flags.

    Raises:
        UserError: Naming the first that is missing or empty.
    """
    for flag in given:
        if not flag.value:
            raise UserError(f"--{flag.name} is missing")


#: Beginnings of what libraries say to their developers: every run has it, no user can mend it.
_TO_DEVELOPERS = (
    "`FeatureConnector.dtype` is deprecated",
    "__array__ implementation doesn't accept a copy keyword",
)


def _is_to_users(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_TO_DEVELOPERS)


def load_tensorflow() -> None:
    """Import TensorFlow and look for its devices, without its lines on stderr.

    They come from C++ before it reads any log level. --verbosity=1, or
    TF_CPP_MIN_LOG_LEVEL=0, shows them, and what libraries tell their developers.
    What goes wrong is raised as ever; run_info.json names the devices found.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        return
    logging.getLogger("absl").addFilter(_is_to_users)
    for text in _TO_DEVELOPERS:
        warnings.filterwarnings("ignore", message=re.escape(text))
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def run(main: Callable[[list[str]], int | None], values: flags.FlagValues) -> NoReturn:
    """Run a tool on the process's arguments and exit; see `call`."""
    sys.exit(call(main, values, sys.argv))


def call(
    main: Callable[[list[str]], int | None], values: flags.FlagValues, argv: Sequence[str]
) -> int:
    """Parse flags, run a tool, and return its exit status.

    The status is what `main` returns (None is 0), 1 after a UserError or an error of the
    system, 2 after a wrong flag, 128 + signum after a signal; these print one line on
    stderr. --help, --help_config and --version are answered here, on stdout.

    Args:
        main: Called with the program's name as its only argument.
        values: The tool's flags; parsed anew, so a process may call a tool again.
        argv: Program's name and arguments.
    """
    name = os.path.basename(argv[0]).removesuffix(".py")
    if {"-h", "-help", "--help", "--helpshort", "--helpfull"} & set(argv[1:]):
        sys.stdout.write(help_text(main, values, name, _SHARED))
        return 0
    if asks_for_version(argv[1:]):
        print(f"dance_tf {__version__}")
        return 0
    values.unparse_flags()
    values.set_gnu_getopt(True)
    try:
        rest = values(list(argv))
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}: options are --NAME=VALUE")
    except flags.Error as error:
        _complain(f"{name}: {' '.join(str(error).split())} (--help lists the flags)")
        return 2
    verbosity = int(values["verbosity"].value or 0)
    terminal.set_verbosity(verbosity)
    if verbosity > 0:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    try:
        if "help_config" in values and values["help_config"].value:
            sys.stdout.write(help_config(experiment_config(values)))
            status = 0
        else:
            with contextlib.ExitStack() as stack:
                _owned.append(stack)
                stack.callback(_owned.pop)
                status = main(rest) or 0
        sys.stdout.flush()  # Otherwise the interpreter does, and a full disk is its to report.
        return status
    except UserError as error:
        _complain(f"{name}: {' '.join(str(error).splitlines())}")
    except Interrupted as error:
        again = "--resume" if "resume" in values else "the same command"
        _complain(f"{name}: {error}: {again} goes on from here")
        return 128 + error.signum
    except BrokenPipeError:
        _drop_stdout()  # Its reader has left.
    except KeyboardInterrupt:
        _complain(f"{name}: interrupted")
        return 130
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        where = found.filename or _full_stdout()
        line = f"{where}: {found.strerror}" if where else str(found.strerror)
        if found.errno in (errno.ENOSPC, errno.EDQUOT) and found.filename and "resume" in values:
            line += "; make room there, and go on with --resume"
        _complain(f"{name}: {line}")
    return 1


def _complain(line: str) -> None:
    """Print a line on stderr; where even that has no room, the exit status has to do."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _full_stdout() -> str:
    """Return the words for stdout if nothing can be written there, and drop what was."""
    try:
        sys.stdout.write("\n")  # A flush alone says nothing where stdout is not buffered.
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
        return "standard output"
    return ""


def _drop_stdout() -> None:
    """Keep the interpreter from complaining at exit of what stdout did not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
