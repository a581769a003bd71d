"""Restrict requests to the page's server: Gradio offers more routes than the page needs."""

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.middleware.base import DispatchFunction, RequestResponseEndpoint
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


def restrict_access(folder: Path) -> DispatchFunction:
    """HTTP middleware that allows the page's own requests and files uploaded to the folder.

    Refused are other routes, other web pages (by the Origin that a browser names), files that
    lie elsewhere or have a URL, and uploads where there are many already.
    """

    async def pass_on(request: Request, respond: RequestResponseEndpoint) -> Response:
        refusal = await _refusal(request, folder)
        response = PlainTextResponse(*refusal) if refusal else await respond(request)
        response.headers["Content-Security-Policy"] = _NO_NETWORK
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return pass_on


async def _refusal(request: Request, folder: Path) -> tuple[str, int] | None:
    """Why a request is refused, with the status."""
    path, origin = request.scope["path"], request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        return "from another page", 403
    if not (_PAGE.fullmatch(path) or _API.fullmatch(path)):
        return "not here", 404
    if request.method != "POST":
        return None
    length = request.headers.get("content-length", "")
    if not length.isdecimal():  # which the server holds a request to
        return "how long?", 411
    if path.startswith("/gradio_api/upload"):
        full = int(length) > MAX_UPLOAD_BYTES - _upload_bytes(folder)
        return ("too many uploads within ten minutes", 507) if full else None
    if int(length) > MAX_REQUEST_BYTES:
        return "too long", 413
    if path.startswith("/gradio_api/queue/join"):
        try:
            files = _file_paths(await request.body())
        except (ValueError, RecursionError):
            return "no JSON of this page", 400
        if not all(_is_inside(folder, file) for file in files):
            return "not an upload", 403
    return None


def _file_paths(content: bytes) -> list[Any]:
    """List all values of the key "path" in JSON."""
    found: list[Any] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        found.extend(value for key, value in pairs if key == "path")

    json.loads(content, object_pairs_hook=keep)
    return found


def _upload_bytes(folder: Path) -> int:
    """Total size of uploads, after removing expired ones, whole or partial."""
    total, oldest = 0, time.time() - UPLOAD_LIFETIME_S
    for file in folder.rglob("*"):
        with suppress(OSError):  # Gradio moves and removes them meanwhile
            if file.is_file() and file.stat().st_mtime < oldest:
                file.unlink()
            elif file.is_file():
                total += file.stat().st_size
    return total


def _is_inside(folder: Path, file: Any) -> bool:
    with suppress(OSError, ValueError):  # names that no file can have
        return isinstance(file, str) and Path(file).resolve().is_relative_to(folder)
    return False
