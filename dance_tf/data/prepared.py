"""Files of prepared TFDS data sets, found, counted and checked without TFDS itself.

The layout is DATA_DIR/NAME[/CONFIG]/VERSION for data and DATA_DIR/downloads for
archives.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import shlex
import ssl
import struct
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from dance_tf.errors import UserError
from dance_tf.files import local_path

__all__ = [
    "Prepared",
    "UrlInfo",
    "check_downloads",
    "count_records",
    "describe_folder",
    "describe_mismatch",
    "find_prepared",
    "folder_hint",
    "list_prepared",
    "parse_name",
    "path_hint",
    "resolve_data_dir",
]


class Prepared(NamedTuple):
    """Folder and sizes of a prepared data set."""

    folder: str  # absolute
    num_images: dict[str, int]  # by the data set's own splits


class UrlInfo(Protocol):
    """Published size and checksum of an archive, as TFDS records them."""

    size: int
    checksum: str  # SHA-256


_NAME = re.compile(r"(\w+)(?:/([\w.-]+))?(?:[:/](\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def resolve_data_dir(data_dir: str | None = None) -> str:
    """Return the absolute path of the folder of data sets.

    That is `data_dir`, else the environment's TFDS_DATA_DIR, else
    ~/tensorflow_datasets. A leading `~` is expanded, whatever a shell left of it.

    Raises:
        UserError: If it is no local folder's name.
    """
    path = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return local_path(path, "the data folder")


def parse_name(name: str) -> tuple[str, str | None, str | None]:
    """Split NAME[/CONFIG][:VERSION] into its three parts.

    Raises:
        UserError: If it is something else.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(
            f"{name!r} is no data set's name: write NAME, NAME/CONFIG or NAME:VERSION"
            f"{path_hint(name)}"
        )
    dataset, config, version = match.groups()
    if config and _VERSION.fullmatch(config):
        config, version = None, config
    return dataset, config, version


def find_prepared(name: str, data_dir: str) -> Path | None:
    """Return the folder of a prepared data set: the version in `name`, or the newest.

    Raises:
        UserError: If there are several configurations and neither `name` nor TFDS's
            own note of the default one chooses.
    """
    dataset, config, version = parse_name(name)
    root = Path(data_dir) / dataset
    if config is None and not _versions(root):
        configs = sorted(path.name for path in _folders(root) if _versions(path))
        if configs:
            config = _default_config(root)
            if config not in configs:
                names = ", ".join(f"{dataset}/{c}" for c in configs)
                raise UserError(
                    f"data set {dataset!r} in {data_dir} has configurations: name one of {names}"
                )
    root = root / config if config else root
    versions = _versions(root)
    if version is not None:
        return root / version if version in versions else None
    return root / versions[-1] if versions else None


def list_prepared(data_dir: str) -> list[str]:
    """Return the names of the data sets in a folder."""
    return sorted(
        path.name
        for path in _folders(Path(data_dir))
        if any(map(_holds_data_set, (path, *_folders(path))))
    )


def _holds_data_set(root: Path) -> bool:
    return any((root / version / "dataset_info.json").is_file() for version in _versions(root))


def describe_folder(data_dir: str) -> str:
    """Return the contents of a folder, to end a sentence that begins with its path."""
    if not os.path.isdir(data_dir):
        return "is no folder"
    names = list_prepared(data_dir)
    if not names:
        return "holds no data set"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"holds {', '.join(names[:5])}{more}"


def path_hint(name: str) -> str:
    """Return flags to write in place of a path, where a data set's name was wanted."""
    if not (set("/\\~") & set(name) or os.path.exists(name)):
        return ""
    path = Path(os.path.abspath(os.path.expanduser(name)))
    for folder in list(path.parents)[:3]:
        dataset = path.relative_to(folder).parts[0]
        if dataset in list_prepared(str(folder)):
            return f"; here it is --dataset={dataset} --data_dir={shlex.quote(str(folder))}"
    return f"; data of your own are named by --data={shlex.quote(str(path))}"


def folder_hint(name: str, data_dir: str) -> str:
    """Return a remark where `data_dir` lies inside the data set instead of above it."""
    path = Path(data_dir)
    for parent in path.parents[:3]:
        inner = path.relative_to(parent).parts
        if inner[0] == parse_name(name)[0] and find_prepared(name, str(parent)):
            return f" (did you mean --data_dir={shlex.quote(str(parent))}?)"
    return ""


def count_records(path: str | os.PathLike) -> tuple[int, str]:
    """Count the records of a TFRecord file, reading their lengths only.

    Returns:
        The number of whole records, and the damage of the file or "".
    """
    count, position = 0, 0
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            while position < size:
                header = file.read(12)  # uint64 length and its checksum
                if len(header) == 12:
                    # The payload and its checksum follow.
                    position += 16 + struct.unpack("<Q", header[:8])[0]
                if len(header) < 12 or position > size:
                    return count, "is damaged or cut short"
                file.seek(position)
                count += 1
    except OSError as error:
        return count, f"cannot be read ({error.strerror})"
    return count, ""


def check_downloads(dataset: str, downloads: Path, url_infos: Mapping[str, UrlInfo] | None) -> None:
    """Check the archives that TFDS has, and that servers of missing ones can be reached.

    TFDS trusts an archive by its file's name, which holds the checksum that the content
    should have, and so accepts an HTML notice or half an archive there. And it tries ten
    times over minutes to reach a server that is out of reach.

    Args:
        dataset: Name of the data set.
        downloads: Folder of archives.
        url_infos: Published size and checksum of each URL.
    Raises:
        UserError: If there was a wrong archive, which is renamed to end in ".wrong"; or
            if archives are missing and no server can be reached.
    """
    missing = []
    for url, expected in (url_infos or {}).items():
        archives = _archives(dataset, downloads, url, expected.checksum)
        for path in archives:
            problem = describe_mismatch(path, expected)
            if problem:
                wrong = path.with_name(path.name + ".wrong")
                path.with_name(path.name + ".INFO").unlink(missing_ok=True)
                path.replace(wrong)
                raise UserError(
                    f"the archive {path.name} is not what {url} should give: {problem}; it is"
                    f" now {wrong}: run again to download it anew"
                )
        if not archives and url.startswith("http"):
            missing.append(url)
    problems = {urllib.parse.urlsplit(url).netloc: url for url in missing}
    for host, url in problems.items():
        problems[host] = _unreachable(url)
        if not problems[host]:
            return
    if problems:
        reasons = "; ".join(f"{host}: {problem}" for host, problem in problems.items())
        raise UserError(f"cannot download {dataset} ({reasons}): go online, or copy a prepared one")


def _archives(dataset: str, downloads: Path, url: str, checksum: str) -> list[Path]:
    """Return the downloaded files of a URL.

    TFDS names them by the checksum of the content or, where it did not know that, of the URL.
    """
    paths: list[Path] = []
    for digest in (checksum, hashlib.sha256(url.encode()).hexdigest()):
        mark = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")
        paths += [*downloads.glob(f"*{mark}*"), *downloads.glob(f"{dataset}/**/*{mark}*")]
    return [p for p in paths if p.is_file() and p.suffix not in (".INFO", ".wrong")]


def _unreachable(url: str) -> str:
    """Return why a URL's server gives no answer at all, or ""."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):
            return ""
    except urllib.error.HTTPError:
        return ""  # An answer, if to HEAD only.
    except urllib.error.URLError as error:
        # TFDS brings its own certificates.
        return "" if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def describe_mismatch(path: Path, expected: UrlInfo) -> str:
    """Return the difference of a file from its published size and checksum, or ""."""
    size, sha256, start = 0, hashlib.sha256(), b""
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            start = start or chunk[:256].lstrip().lower()
            size += len(chunk)
            sha256.update(chunk)
    checksum = sha256.hexdigest()
    if (size, checksum) == (expected.size, expected.checksum):
        return ""
    kind = ", an HTML page" if start.startswith((b"<!doctype", b"<html")) else ""
    return (
        f"expected {int(expected.size)} bytes with sha256 {expected.checksum},"
        f" found {size} bytes with sha256 {checksum}{kind}"
    )


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):  # such as one of somebody else
        return [path for path in root.iterdir() if path.is_dir()]
    return []


def _versions(root: Path) -> list[str]:
    """Return the versions in a folder, oldest first; unfinished ones have other names."""
    names = [path.name for path in _folders(root) if _VERSION.fullmatch(path.name)]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def _default_config(root: Path) -> str | None:
    """Return the default configuration that TFDS noted beside the prepared ones."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        text = (root / ".config" / "metadata.json").read_text()
        return json.loads(text).get("default_config_name")
    return None
