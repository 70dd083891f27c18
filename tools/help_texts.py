"""Texts that --help and --help_config print, and when --version is asked for."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence

from absl import flags

from dance_tf.config import ExperimentConfig, config_to_json
from dance_tf.config_fields import FIELDS, leaf_fields, type_name
from dance_tf.files import Json
from dance_tf.run.installation import tool_command

__all__ = ["asks_for_version", "help_config", "help_text"]


def asks_for_version(arguments: Sequence[str]) -> bool:
    """Whether --version stands without a value: export_model has a flag of that name."""
    following = [*arguments, "--"][1:]
    return any(
        argument == "--version" and after.startswith("--")
        for argument, after in zip(arguments, following, strict=True)
    )


def help_config(config: ExperimentConfig) -> str:
    """Return a config's fields as --set takes them, each with what it may be and means."""
    lines = ["Fields of the configuration, as --set=NAME=VALUE takes them:", ""]
    for name, hint in leaf_fields(ExperimentConfig):
        value: Json = config_to_json(config)
        for key in name.split("."):
            value = value[key]
        shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        info = FIELDS[name]
        facts = ": ".join(filter(None, (type_name(hint), info.allowed)))
        lines.append(f"  {name}={shown}")
        lines += textwrap.wrap(
            f"{info.meaning} ({facts})", 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines) + "\n"


def help_text(
    main: Callable[[list[str]], int | None],
    values: flags.FlagValues,
    name: str,
    shared: Collection[str],
) -> str:
    """Return the tool's docstring and its flags, those not in `shared` first."""
    module = sys.modules[main.__module__]
    folder = os.path.basename(os.path.dirname(module.__file__ or "")) or "tools"
    command = tool_command(name) if folder == "tools" else f"python -m {folder}.{name}"
    text = re.sub(r"python -m tools\.(\w+)", lambda m: tool_command(m[1]), module.__doc__ or "")
    lines = [text.strip(), "", f"usage: {command} [--FLAG=VALUE ...]", "", "flags:"]
    for flag_name in sorted(values, key=lambda n: (n in shared, n)):
        flag = values[flag_name]
        is_switch = flag.boolean and flag_name != "help_config"
        shown = f"--[no]{flag_name}" if is_switch else f"--{flag_name}"
        # Enum flags carry their choices in the help text, repeated ones a remark of absl's.
        help_text = flag.help.partition(";\n")[0]
        if flag.default not in (None, [], False):
            help_text += f" (default {flag.default_as_str})"
        lines.append(f"  {shown}")
        lines += textwrap.wrap(help_text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["  --version", "      Without a value: print the version of dance_tf and end."]
    return "\n".join(lines) + "\n"
