"""The page and its server. Imports Gradio, which takes seconds."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flowertune.demo import cards
from flowertune.demo.answers import answer
from flowertune.demo.neighbours import Neighbours
from flowertune.trained import Trained

MAX_MEBIBYTES = 64  # of a file
MOST_PHOTOS = 24  # at once
ENDING = 2  # seconds that an answer under way has, when the server is to end

_ASSETS = Path(__file__).parent / "assets"
# Gradio's own scripts and styles stand in its page; nothing comes from anywhere else
_NO_NETWORK = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


def page(model: Trained, neighbours: Neighbours, lead: str) -> gr.Blocks:
    """A place for photos, and under it a card for each. `lead` is HTML."""

    def respond(uploads: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
        photos = [Path(each) for each in uploads or ()]
        said = ""
        for done, photo in enumerate(photos[:MOST_PHOTOS], start=1):
            said += cards.card(photo.name, answer(model, neighbours, photo), neighbours.said)
            coming = len(photos[:MOST_PHOTOS]) - done
            yield cards.answers(said, coming), gr.skip()
        if len(photos) > MOST_PHOTOS:
            left = f"{len(photos) - MOST_PHOTOS:,} more photos were left out: the page takes"
            said = cards.notice(f"{left} {MOST_PHOTOS} at once; predict takes a folder.") + said
        yield cards.answers(said, 0), None  # and the place is free for the next photos

    with gr.Blocks(title="flowertune", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        gr.HTML(lead, elem_id="lead", padding=False)
        photos = gr.File(
            label="Photos: drop, paste or choose",
            file_count="multiple",
            type="filepath",
            elem_id="photos",
        )
        answers = gr.HTML(elem_id="answers", padding=False)
        photos.upload(respond, photos, [answers, photos], api_visibility="private")
    return blocks


def application(blocks: gr.Blocks, hosts: Sequence[str] | None) -> FastAPI:
    """The page as a server's application, with limits, and with nothing from another host.

    hosts: the names that a browser may know the server by; any, where None.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def no_network(request: Request, respond: Any) -> Response:
        response: Response = await respond(request)
        response.headers["Content-Security-Policy"] = _NO_NETWORK
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    app.middleware("http")(no_network)

    if hosts is not None:  # else a page elsewhere could have its own name lead here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=f"{MAX_MEBIBYTES}mb",
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(**fonts),
        css_paths=_ASSETS / "page.css",
        head=f"<script>{(_ASSETS / 'paste.js').read_text(encoding='utf-8')}</script>",
    )
    return app


@contextmanager
def serving(app: FastAPI, listener: socket.socket) -> Iterator[threading.Thread]:
    """While it is open, the application is served, by a thread of its own, which it gives."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=ENDING)
    )
    thread = threading.Thread(target=server.run, args=([listener],), name="demo", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join()
