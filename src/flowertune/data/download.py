"""Download files and unpack archives, completely or not at all."""

import gzip
import hashlib
import http.client
import os
import tarfile
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from flowertune import files
from flowertune.data.dataset import Progress
from flowertune.errors import UsageError

# Seconds until the response starts, and without new data after that.
CONNECT_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 8.0
CHUNK_BYTES = 1 << 18

T = TypeVar("T")


def call_with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """Call `function`; raise TimeoutError after `seconds`, whatever it is waiting for.

    Uses a thread, which is abandoned on a timeout: HTTP libraries restart their timeouts for each
    address and each read, and have none for name lookups.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # raised in the caller
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except FutureTimeoutError:  # not the built-in TimeoutError before Python 3.11
        raise TimeoutError from None


def fetch(url: str, target: Path, *, md5: str, progress: Progress, hint: str) -> None:
    """Download `url` to `target`, which then exists only if it is complete and has this MD5.

    `hint` says what to do without a network. Raises UsageError if the download fails (within ten
    seconds of silence) or is a different file; OSError on disk errors.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        actual_md5 = _download(url, part, partial(progress, f"fetching {target.name}"))
        if actual_md5 != md5:
            raise UsageError(
                f"{url}: MD5 is {actual_md5}, expected {md5} (a login page or a damaged copy?);"
                f" {hint}"
            )
        os.replace(part, target)
        files.flush_folder(target.parent)
    except _DownloadError as error:
        raise UsageError(f"cannot fetch {url}: {error}; {hint}") from error
    finally:
        part.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path, *, total: int, progress: Progress) -> None:
    """Extract a tar archive of `total` files into `folder`, which must not exist yet.

    Raises UsageError if the archive is damaged, or (before writing it) for an entry that is outside
    `folder` or neither a file nor a folder; OSError on disk errors.
    """
    folder.mkdir()
    done = 0
    try:
        with tarfile.open(archive) as tar:
            # Python 3.10.12 and later repeat these checks and set safe permissions.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
            for member in tar:
                _check_member(archive, member)
                tar.extract(member, folder)
                if member.isfile():
                    done += 1
                    progress(f"unpacking {archive.name}", done, total)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        message = f"cannot unpack {archive}: {error}; delete it and run again"
        raise UsageError(message) from error
    # Once renamed, the folder counts as complete, so everything must be on disk first.
    if hasattr(os, "sync"):
        os.sync()


class _DownloadError(Exception):
    """A network error, as opposed to a disk error; both raise OSError."""


def _download(url: str, part: Path, progress: Callable[[int, int | None], None]) -> str:
    """Download to `part`, flush it to disk and return its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    with _connect(url) as response, part.open("wb") as file:
        content_length = response.headers.get("Content-Length")
        total = int(content_length) if content_length else None
        progress(done, total)
        while chunk := _read_chunk(response, done):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
        if total is not None and done < total:
            raise _DownloadError(f"the connection ended after {done:,} of {total:,} bytes")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _connect(url: str) -> http.client.HTTPResponse:
    connect = partial(urllib.request.urlopen, url, timeout=READ_TIMEOUT_S)
    try:
        return call_with_timeout(CONNECT_TIMEOUT_S, connect)  # type: ignore[no-any-return]
    except TimeoutError:
        raise _DownloadError(f"no response within {CONNECT_TIMEOUT_S:.0f} s") from None
    except urllib.error.HTTPError as error:
        raise _DownloadError(f"the server responded {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _DownloadError(f"no connection ({getattr(error, 'reason', error)})") from None


def _read_chunk(response: http.client.HTTPResponse, done: int) -> bytes:
    """Read the bytes that have arrived, without waiting for a full chunk; empty at the end."""
    try:
        return response.read1(CHUNK_BYTES)
    except TimeoutError:
        raise _DownloadError(f"no data for {READ_TIMEOUT_S:.0f} s after {done:,} bytes") from None
    except (OSError, http.client.HTTPException) as error:
        raise _DownloadError(f"connection lost after {done:,} bytes ({error})") from None


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    leads_out = path.is_absolute() or ".." in path.parts or ":" in member.name
    if leads_out or not (member.isfile() or member.isdir()):
        problem = "is outside its folder" if leads_out else "is neither a file nor a folder"
        raise UsageError(f"{archive}: not safe to unpack, {member.name!r} {problem}")
