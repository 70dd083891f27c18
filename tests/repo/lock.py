"""Write requirements_lock.txt: every package that requirements-dev.txt brings, pinned.

`python -m tests.repo.lock` asks the package index for what would be installed on
this Python and installs nothing. Bazel's pip extension needs such a list.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.repo.source import ROOT

__all__ = ["main"]

LOCK = ROOT / "requirements_lock.txt"


def main() -> None:
    """Resolve and write."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--report", "-", "-r", "requirements-dev.txt"]
    report = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=-1).stdout)
    packages = [item["metadata"] for item in report["install"]]
    pins = {
        re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages
    }
    version = ".".join(map(str, sys.version_info[:2]))
    header = f"# Written by `make lock` with Python {version}; for Bazel. Others read requirements.txt.\n"
    LOCK.write_text(header + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))


if __name__ == "__main__":
    main()
