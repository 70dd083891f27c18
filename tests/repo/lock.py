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
    lines = [
        f"# For Bazel; others read requirements.txt. Written by `make lock`, Python {version}."
    ]
    lines += [f"{name}=={pins[name]}" for name in sorted(pins)]
    LOCK.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
