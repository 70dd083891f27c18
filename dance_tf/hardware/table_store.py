"""Arrays on disk that are whole or not there: a folder each, built in parts.

A folder holds one .npy file per array and a header.json with what the arrays are of and
the SHA-256 of each file. It is written aside and renamed, so a reader sees all of it or
nothing. A build keeps its finished parts in folders of the same form, under
`<name>.building`: when it is killed, the next one goes on from there.

Builders of the same folder take turns by a lock. Where a file system has no locks they
build side by side, which costs time only: each part is the same whoever computes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dance_tf.errors import UserError
from dance_tf.files import Json, parse_json, write_json
from dance_tf.run.folder_lock import owned

__all__ = ["build_in_parts", "read_arrays", "write_arrays"]

Arrays = Mapping[str, np.ndarray]

_HEADER = "header.json"


def read_arrays(path: pathlib.Path, facts: Mapping[str, Json]) -> dict[str, np.ndarray] | None:
    """Return the arrays of a folder, memory-mapped and read-only; None if it is not there.

    Args:
        path: The folder.
        facts: JSON data that the header must hold, as given to `write_arrays`.
    Raises:
        UserError: If a file is damaged, missing or of something else.
    """
    if not os.path.lexists(path):
        return None

    def refusal(what: str) -> UserError:
        return UserError(
            f"the cached cost table {path} is corrupted ({what}); delete it to build it anew"
        )

    try:
        header = parse_json((path / _HEADER).read_text("utf-8-sig"), _HEADER)
        files = sorted(path.glob("*.npy"))
        digests = {file.stem: _sha256(file) for file in files}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refusal(f"{os.path.basename(error.filename)} is missing") from None
    except UnicodeDecodeError:
        raise refusal(f"{_HEADER} is not text") from None
    except UserError as error:
        raise refusal(str(error)) from None
    except OSError as error:
        raise UserError(f"cannot read the cached cost table {path}: {error.strerror}") from None
    stored = header.pop("sha256", None) if isinstance(header, dict) else None
    if header != _plain(facts) or not isinstance(stored, dict):
        raise refusal(f"{_HEADER} is of something else")
    for name in sorted({*stored, *digests}):
        if name not in digests:
            raise refusal(f"{name}.npy, which {_HEADER} names, is missing")
        if stored.get(name) != digests[name]:
            raise refusal(f"{name}.npy does not fit its SHA-256 in {_HEADER}")
    maps = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
    return {name: np.asarray(array) for name, array in maps.items()}  # plain views of the maps


def write_arrays(
    path: pathlib.Path, arrays: Arrays, facts: Mapping[str, Json], *, scratch: pathlib.Path
) -> None:
    """Write a folder of arrays, whole or not at all; one that is there already stays.

    Args:
        path: The folder.
        arrays: By name; the same arrays give the same bytes.
        facts: JSON data for the header.
        scratch: Folder on the same file system to write in first.
    Raises:
        OSError: If that fails.
    """
    aside = scratch / f"{path.name}.{uuid.uuid4().hex}.partial"
    try:
        aside.mkdir(parents=True)
        digests = {}
        for name, array in sorted(arrays.items()):
            file = aside / f"{name}.npy"
            content = io.BytesIO()  # numpy's own write to a file says nothing of a full disk
            np.save(content, np.ascontiguousarray(array), allow_pickle=False)
            with open(file, "wb") as stream:
                stream.write(content.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
            digests[name] = _sha256(file)
        write_json(aside / _HEADER, {**facts, "sha256": digests})
        try:
            os.rename(aside, path)
        except OSError:
            if not path.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def build_in_parts(
    path: pathlib.Path,
    facts: Mapping[str, Json],
    *,
    num_parts: int,
    compute: Callable[[int], Arrays],
    assemble: Callable[[Sequence[Arrays]], Arrays],
    on_progress: Callable[[int], None] = lambda done: None,
) -> bool:
    """Build a folder of arrays from parts, going on from those that are there.

    Args:
        path: The folder to build.
        facts: JSON data that determine the arrays.
        num_parts: Number of parts.
        compute: Returns the arrays of part 0 .. num_parts - 1, always the same.
        assemble: Returns the arrays to write, from those of all parts in order.
        on_progress: Called with the number of parts that are there, at first with what
            an earlier or another build has done, if anything.
    Returns:
        Whether it was built here: False if another process has built it meanwhile.
    Raises:
        UserError: If the folder cannot be written, or by `compute`, which leaves nothing.
    """
    building = path.with_name(f"{path.name}.building")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def of_part(index: int) -> tuple[pathlib.Path, dict[str, Json]]:
        return building / f"part_{index:04d}", {
            "facts_sha256": digest,
            "part": index,
            "of": num_parts,
        }

    def report_waiting() -> None:
        done = sum(of_part(index)[0].exists() for index in range(num_parts))
        if not path.exists():  # else parts are being removed
            on_progress(done)

    def write(where: pathlib.Path, arrays: Arrays, what: Mapping[str, Json]) -> None:
        try:
            write_arrays(where, arrays, what, scratch=building)
        except OSError as error:
            if not path.exists():  # else built, and its parts removed, by another process
                raise _cannot_write(path, error) from None

    with _turn(path, building, report_waiting):
        if path.exists():
            shutil.rmtree(building, ignore_errors=True)
            return False
        found = [_read_part(*of_part(index)) for index in range(num_parts)]
        done = num_parts - found.count(None)
        if done:  # a mistake of the user's shows at the first part, and is then the only line
            on_progress(done)
        parts: list[Arrays] = []
        for index, part in enumerate(found):
            if part is None:
                try:
                    part = compute(index)
                except UserError:  # it would come again
                    shutil.rmtree(building, ignore_errors=True)
                    raise
                where, what = of_part(index)
                write(where, part, what)
                done += 1
                on_progress(done)
            parts.append(part)
        write(path, assemble(parts), facts)
        shutil.rmtree(building, ignore_errors=True)
        return True


@contextlib.contextmanager
def _turn(
    path: pathlib.Path, building: pathlib.Path, on_wait: Callable[[], None]
) -> Iterator[None]:
    """Own the folder that a build is in."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(owned(building, is_waiting=True, on_wait=on_wait))
        except OSError as error:
            raise _cannot_write(path, error) from None
        yield


def _read_part(path: pathlib.Path, facts: Mapping[str, Json]) -> Arrays | None:
    """Return a finished part; one that is damaged is removed and computed again."""
    try:
        return read_arrays(path, facts)
    except UserError:
        shutil.rmtree(path, ignore_errors=True)
        return None


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    reason = error.strerror or error
    return UserError(
        f"cannot write the table cache {path.parent} ({reason}): name another with --cache_dir"
    )


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(facts: Mapping[str, Json]) -> dict[str, Json]:
    """Return JSON data as it reads back: tuples are lists."""
    return json.loads(json.dumps(facts))
