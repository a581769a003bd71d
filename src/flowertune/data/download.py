"""Download files and unpack archives, each completely or not at all."""

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

# Seconds: everything before the first byte of the answer, and one silence of the network after it.
CONNECT_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 8.0
CHUNK_BYTES = 1 << 18

T = TypeVar("T")


def call_with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """Call `function`; TimeoutError after `seconds`, whatever it is then waiting for.

    A thread, which is left behind, because the timeouts of HTTP libraries start anew with each
    address and each read, and looking up a name has none at all.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # handed to the caller, whatever it is
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except FutureTimeoutError:  # another class than TimeoutError before Python 3.11
        raise TimeoutError from None


def fetch(url: str, target: Path, *, md5: str, progress: Progress, hint: str) -> None:
    """Download `url` to `target`, which exists afterwards only if it is whole and has this md5.

    `hint` is what a person can do without the network. Raises UsageError, within ten seconds of
    silence, where it cannot be fetched or is another file; OSError where the disk fails.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        actual_md5 = _download(url, part, partial(progress, f"fetching {target.name}"))
        if actual_md5 != md5:
            raise UsageError(
                f"{url} is not the file it should be: its md5 is {actual_md5}, expected {md5}"
                f" (a login page or a damaged copy?); {hint}"
            )
        os.replace(part, target)
        files.flush_folder(target.parent)
    except _DownloadError as error:
        raise UsageError(f"cannot fetch {url}: {error}; {hint}") from error
    finally:
        part.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path, *, total: int, progress: Progress) -> None:
    """Extract a tar archive into `folder`, which must not exist yet; `total` files are expected.

    Raises UsageError, before anything of the entry is written, where an entry would land outside
    `folder` or is neither a file nor a folder, and where the archive is damaged; OSError where
    the disk fails.
    """
    folder.mkdir()
    done = 0
    try:
        with tarfile.open(archive) as tar:
            # The same checks once more, and safe permissions, by Pythons that have them (3.10.12).
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
            for member in tar:
                _check_member(archive, member)
                tar.extract(member, folder)
                if member.isfile():
                    done += 1
                    progress(f"unpacking {archive.name}", done, total)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        message = f"{archive} cannot be unpacked: {error}; remove it and start again"
        raise UsageError(message) from error
    # Renaming the folder says that all of it is there: so let it be on the disk first.
    if hasattr(os, "sync"):
        os.sync()


class _DownloadError(Exception):
    """A network error, as opposed to one of the disk: both raise OSError."""


def _download(url: str, part: Path, progress: Callable[[int, int | None], None]) -> str:
    """Download to `part`, flush it to the disk and return its md5."""
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
        raise _DownloadError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s") from None
    except urllib.error.HTTPError as error:
        raise _DownloadError(f"the server says {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _DownloadError(f"no connection ({getattr(error, 'reason', error)})") from None


def _read_chunk(response: http.client.HTTPResponse, done: int) -> bytes:
    """Read the bytes that have arrived, without waiting for a full chunk; empty at the end."""
    try:
        return response.read1(CHUNK_BYTES)
    except TimeoutError:
        raise _DownloadError(
            f"nothing more came for {READ_TIMEOUT_S:.0f} s after {done:,} bytes"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _DownloadError(f"the connection broke after {done:,} bytes ({error})") from None


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    leads_out = path.is_absolute() or ".." in path.parts or ":" in member.name
    if leads_out or not (member.isfile() or member.isdir()):
        problem = "leads out of its folder" if leads_out else "is no file and no folder"
        raise UsageError(f"{archive} is not to be trusted: {member.name!r} {problem}")
