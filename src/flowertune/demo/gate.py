"""Who may ask the page's server for what. Gradio's answers more than this page ever asks."""

import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

LARGEST = 2**30  # bytes of uploads that are kept at a time

_PAGE = re.compile(r"/|/(assets|static|svelte)/.+|/(theme\.css|favicon\.ico|manifest\.json)")
_ASKED = re.compile(
    r"/gradio_api/(startup-events|heartbeat/\w+|upload|upload_progress|queue/(join|data)|reset)/?"
)
# Gradio's own scripts and styles stand in its page; nothing comes from anywhere else
_NO_NETWORK = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)

Respond = Callable[[Request], Awaitable[Response]]


def gate(folder: Path) -> Callable[[Request, Respond], Awaitable[Response]]:
    """HTTP middleware: what this page asks passes, and files that were uploaded into the folder.

    Refused are other routes, other web pages (by the Origin that a browser names), files that lie
    elsewhere or have a URL, and uploads where there are many already.
    """

    async def pass_on(request: Request, respond: Respond) -> Response:
        refusal = await _refusal(request, folder)
        response = refusal or await respond(request)
        response.headers["Content-Security-Policy"] = _NO_NETWORK
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return pass_on


async def _refusal(request: Request, folder: Path) -> Response | None:
    path, origin = request.url.path, request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return PlainTextResponse("from another page", 403)
    if not (_PAGE.fullmatch(path) or _ASKED.fullmatch(path)):
        return PlainTextResponse("not here", 404)
    if path.startswith("/gradio_api/queue/join"):
        try:
            asked = await request.json()
        except ValueError:
            return PlainTextResponse("no JSON", 400)
        if not all(_lies_in(folder, file) for file in _files(asked)):
            return PlainTextResponse("not an upload", 403)
    if path.startswith("/gradio_api/upload") and request.method == "POST":
        files = (each for each in folder.rglob("*") if each.is_file())
        if sum(each.stat().st_size for each in files) >= LARGEST:
            return PlainTextResponse("too many uploads for now", 507)
    return None


def _files(asked: Any) -> Iterator[Any]:
    """What stands under the key "path", anywhere in what JSON gave."""
    if isinstance(asked, dict):
        yield from (value for key, value in asked.items() if key == "path")
    if isinstance(asked, dict | list):
        for each in asked.values() if isinstance(asked, dict) else asked:
            yield from _files(each)


def _lies_in(folder: Path, file: Any) -> bool:
    try:
        return isinstance(file, str) and Path(file).resolve().is_relative_to(folder)
    except (OSError, ValueError):  # names that no file can have
        return False
