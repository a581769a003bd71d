"""Write files atomically (temporary name, flush, rename), hash them and lock them."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowertune.errors import UsageError

SUMS = "SHA256SUMS"  # in the format of sha256sum
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """Full disk; `strerror` states the space needed and the space free."""


def expand_user(path: str | Path) -> Path:
    """Replace a leading ~ by the home folder, as a shell does; a ~name without one stays."""
    return Path(os.path.expanduser(path))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: readers see the old content or the new.

    Raises DiskFullError or another OSError; `path` then keeps its old content.
    """
    temporary = _temporary_path(path)
    try:
        with _explain_full_disk(path, len(data)), temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a new folder of files and their SHA-256 sums atomically. Raises like `write_bytes`."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()]
    with _explain_full_disk(path, sum(map(len, contents.values()))), new_folder(path) as folder:
        for name, data in {**contents, SUMS: "".join(lines).encode()}.items():
            (folder / name).write_bytes(data)


@contextmanager
def new_folder(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Create a folder for the body to fill; it appears at `path` only if the body succeeds.

    Until then it is at `temporary` (default: a hidden name beside `path`). Its files are flushed,
    those in its subfolders are not. Raises OSError, also if `path` exists by then.
    """
    temporary = temporary or _temporary_path(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        flush_folder(temporary)
        temporary.rename(path)
        flush_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def find_corruption(folder: Path) -> str | None:
    """Describe how a folder differs from what `write_folder` wrote; None if intact.

    Raises OSError if it cannot be read, which does not mean that it is corrupt.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        for name in sums.keys() | {path.name for path in folder.iterdir()} - {SUMS}:
            if not name:
                return f"{SUMS} is damaged"
            if name not in sums or sha256_of(folder / name) != sums[name]:
                return f"{name} is damaged"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except ValueError:
        return f"{SUMS} is damaged"
    return None if sums else f"{SUMS} is damaged"


@contextmanager
def _explain_full_disk(path: Path, n_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free
        sizes = f"{format_bytes(n_bytes)} needed, {format_bytes(free)} free"
        message = f"{os.strerror(error.errno)}: {sizes}"
        raise DiskFullError(error.errno, message, str(path)) from error


def format_bytes(size: int) -> str:
    """Format a size in bytes: 1.2 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1000:,.1f} kB"


def bytes_in(path: Path) -> int:
    """Size of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in files)


def flush_folder(folder: Path) -> None:
    """Flush a rename inside `folder` to disk, where the system supports it (not Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
                raise
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """Digest of a file in hex; "md5" detects damage, but not tampering."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; undecodable bytes of file names become `\\udcXX`."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def lock(
    path: Path, waiting: Callable[[], None] | None = None, subject: Path | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the body runs; the lock ends with the process.

    If another process holds it, call `waiting()` and wait, or raise Timeout without `waiting`.
    Raises UsageError naming `subject` (default: `path`) if the file system has no locks.
    """
    file = FileLock(path)
    try:
        acquired = file.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise
        waiting()
        acquired = file.acquire()
    except NotImplementedError as error:
        raise UsageError(
            f"{subject or path}: the file system does not support locks (flock), which keep "
            "processes from overwriting each other's files"
        ) from error
    with acquired:
        yield
