"""The command `dance-tf NAME --FLAG=VALUE ...`: run a tool; alone, list them.

`python -m dance_tf` is the same program. Listing imports neither the tools nor TensorFlow.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys

from dance_tf.errors import did_you_mean
from dance_tf.run import installation
from dance_tf.version import __version__

__all__ = ["main"]

_TOOLS = "dance_tf.tools"


def main(arguments: list[str] | None = None) -> int:
    """Run the tool that the arguments begin with, and return its exit status.

    Args:
        arguments: Name of the tool, with `-` or `_` between its words, and its flags; those
            of the process if None.
    """
    first, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if first == "--version":
        print(f"dance_tf {__version__}")
        return 0
    tools = _tools()
    if first in ("-h", "--help"):
        _print_list(tools)
        return 0
    name = first.replace("-", "_")
    if name not in tools:
        print(f"dance_tf: no tool {first!r}{did_you_mean(name, tools)}", file=sys.stderr)
        return 2
    _find_tools()
    tool = importlib.import_module(f"{_TOOLS}.{name}")
    flags = importlib.import_module(f"{_TOOLS}.flags")
    return flags.call(tool.main, tool.FLAGS, [name, *rest])


def _print_list(tools: dict[str, str]) -> None:
    width = max(map(len, tools))
    print(f"dance_tf {__version__}")
    print(f"\nThe tools; `{installation.tool_command('NAME')} --help` says more of each:\n")
    for name, line in tools.items():
        print(f"  {name:<{width}}  {line}")
    print(f"\nTrained models: {installation.folder('saved_models')}")
    search = installation.tool_command("search")
    print(f"\nTo begin: {search} --preset=quick --output_dir=runs/first_look")


def _tools() -> dict[str, str]:
    """Return the first line of the docstring of each tool, by its name."""
    found = {}
    for path in sorted(installation.folder("tools").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\nif __name__ == " in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def _find_tools() -> None:
    """Give the folder of the tools its name in this package, wherever it lies.

    In a clone it lies beside the package; a `tools` of the user's own is never meant.
    """
    home = installation.folder("tools")
    spec = importlib.util.spec_from_file_location(
        _TOOLS, home / "__init__.py", submodule_search_locations=[str(home)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[_TOOLS] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    sys.exit(main())
