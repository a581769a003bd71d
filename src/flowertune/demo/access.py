"""Restrict requests to the page's server: Gradio offers more routes than the page needs."""

import re
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

MAX_UPLOAD_BYTES = 2 * 2**30  # of all uploads that are kept; a lot of them may be 1.5 GiB
MAX_REQUEST_BYTES = 256 * 2**10  # of any other request
UPLOAD_LIFETIME_S = 600

_PAGE = re.compile(r"/|/(assets|static|svelte)/.+|/(theme\.css|favicon\.ico|manifest\.json)")
_API = re.compile(
    r"/gradio_api/(startup-events|heartbeat/\w+|upload|upload_progress|queue/(join|data)|reset)/?"
)
# Gradio's own scripts and styles stand in its page; nothing comes from anywhere else
_NO_NETWORK = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)

Respond = Callable[[Request], Awaitable[Response]]


def restrict_access(folder: Path) -> Callable[[Request, Respond], Awaitable[Response]]:
    """HTTP middleware that allows the page's own requests and files uploaded to the folder.

    Refused are other routes, other web pages (by the Origin that a browser names), files that
    lie elsewhere or have a URL, and uploads where there are many already.
    """

    async def pass_on(request: Request, respond: Respond) -> Response:
        refusal = await _refusal(request, folder)
        response = refusal or await respond(request)
        response.headers["Content-Security-Policy"] = _NO_NETWORK
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return pass_on


async def _refusal(request: Request, folder: Path) -> Response | None:
    path = request.scope["path"]
    if not _is_own(request.headers.get("origin"), request.headers.get("host")):
        return PlainTextResponse("from another page", 403)
    if not (_PAGE.fullmatch(path) or _API.fullmatch(path)):
        return PlainTextResponse("not here", 404)
    if request.method != "POST":
        return None
    length = request.headers.get("content-length", "")
    if not length.isdecimal():  # which the server holds a request to
        return PlainTextResponse("how long?", 411)
    if path.startswith("/gradio_api/upload"):
        if int(length) > MAX_UPLOAD_BYTES - _upload_bytes(folder):
            return PlainTextResponse("too many uploads within ten minutes", 507)
        return None
    if int(length) > MAX_REQUEST_BYTES:
        return PlainTextResponse("too long", 413)
    if path.startswith("/gradio_api/queue/join"):
        try:
            files = list(_file_paths(await request.json()))
        except (ValueError, RecursionError):
            return PlainTextResponse("no JSON of this page", 400)
        if not all(_is_inside(folder, file) for file in files):
            return PlainTextResponse("not an upload", 403)
    return None


def _is_own(origin: str | None, host: str | None) -> bool:
    """Whether a request comes from the page itself, or from no page."""
    try:
        return origin is None or urlsplit(origin).netloc == host
    except ValueError:
        return False


def _upload_bytes(folder: Path) -> int:
    """Total size of uploads, after removing expired ones, whole or partial."""
    total, now = 0, time.time()
    for file in folder.rglob("*"):
        with suppress(OSError):  # Gradio moves and removes them meanwhile
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            if now - status.st_mtime > UPLOAD_LIFETIME_S:
                file.unlink()
            else:
                total += status.st_size
    return total


def _file_paths(content: Any) -> Iterator[Any]:
    """Yield all values of the key "path" in parsed JSON."""
    if isinstance(content, dict):
        yield from (value for key, value in content.items() if key == "path")
    if isinstance(content, dict | list):
        for child in content.values() if isinstance(content, dict) else content:
            yield from _file_paths(child)


def _is_inside(folder: Path, file: Any) -> bool:
    try:
        return isinstance(file, str) and Path(file).resolve().is_relative_to(folder)
    except (OSError, ValueError):  # names that no file can have
        return False
