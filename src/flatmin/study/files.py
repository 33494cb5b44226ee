"""Atomic writes: a process killed at any moment leaves the old or the new file. And folders with a single writer."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to: renamed to `path` when the block succeeds, deleted when it raises.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the error names `path`.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with naming(path):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError of the block that names no file: a write to a full disk does not name its file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON. Raises OSError if there is no such file, and ValueError that names it if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder that are not hidden, by path; empty if there is none."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path.read_bytes() for name, path in found.items() if not name.name.startswith(".")}


def replace_content(folder: Path, files: dict[str, bytes], last: str = "") -> None:
    """Make `files` the content of a folder, each of them atomically.

    Args:
        folder: created if it is new.
        files: as in `content`.
        last: the file that is written last.

    Raises:
        OSError: a file cannot be written; the error names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name == last):
        (folder / name).parent.mkdir(exist_ok=True)
        with atomic(folder / name) as path:
            path.write_bytes(files[name])
    for name in content(folder).keys() - files.keys():
        (folder / name).unlink()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Create `folder` and lock it for this process. The system releases the lock when the process ends, even if killed.

    Raises:
        ValueError: another process holds it; the message names the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / ".lock", timeout=0), folder / ".owner"
    try:
        lock.acquire()
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise ValueError(f"{folder} is in use by {who}; wait until that ends, or choose another folder") from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()
