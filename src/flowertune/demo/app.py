"""The page and its server. Imports Gradio, which takes seconds."""

import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flowertune.demo import cards
from flowertune.demo.access import restrict_access
from flowertune.demo.answer import answer
from flowertune.demo.neighbors import Neighbors
from flowertune.inference.predictor import Predictor

MAX_MEBIBYTES = 64  # of a file
MOST_PHOTOS = 24  # at once
KEPT = 2 * MOST_PHOTOS  # cards on the page
ENDING = 2  # seconds that an answer under way has, when the server is to end

_ASSETS = Path(__file__).parent / "assets"


def page(model: Predictor, neighbors: Neighbors, lead: str) -> gr.Blocks:
    """A place for photos, and under it a card for each, the newest first. `lead` is HTML."""

    def respond(uploads: Sequence[str] | None, used: int) -> Iterator[dict[Any, Any]]:
        photos = [Path(each) for each in uploads or ()]
        chosen = photos[:MOST_PHOTOS]
        told = cards.left_out(len(photos) - len(chosen), MOST_PHOTOS)
        first = {place: None, status: cards.status(0, len(chosen)), notice: told}
        if used + len(chosen) > KEPT:
            used = 0
            first.update(dict.fromkeys(slots, ""))
        yield {**first, taken: used + len(chosen)}  # the place is free again
        for done, photo in enumerate(chosen, start=1):
            card = cards.card(photo.name, answer(model, neighbors, photo), neighbors.said)
            yield {slots[used + done - 1]: card, status: cards.status(done, len(chosen))}

    with gr.Blocks(title="flowertune", analytics_enabled=False) as blocks:
        gr.HTML(lead, elem_id="lead", padding=False)
        place = gr.File(
            label=f"Photos: drop, paste or choose ({MOST_PHOTOS} at once,"
            f" of {MAX_MEBIBYTES} MiB at most)",
            file_count="multiple",
            type="filepath",
            elem_id="photos",
        )
        with gr.Column(elem_id="said"):
            gr.HTML('<p id="refused" role="alert"></p>', padding=False)  # photos.js writes there
            notice = gr.HTML(padding=False)
            status = gr.HTML(padding=False)
        taken = gr.State(0)
        with gr.Column(elem_id="answers"):  # from the last to the first, see page.css
            slots = [gr.HTML(padding=False) for _ in range(KEPT)]
        place.upload(
            respond,
            [place, taken],
            [place, taken, notice, status, *slots],
            api_visibility="private",
            concurrency_limit=1,  # one model, and what is looked at in it is the answer's own
            trigger_mode="multiple",
            show_progress="hidden",
        )
    return blocks


def application(blocks: gr.Blocks, folder: Path, hosts: Sequence[str] | None) -> FastAPI:
    """The page as a server's application, with limits, and with nothing from another host.

    folder: where uploads lie. hosts: the names that a browser may know the server by; any, where
    None.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(restrict_access(folder))
    if hosts is not None:  # else a page elsewhere could have its own name lead here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    script = (_ASSETS / "photos.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=MAX_MEBIBYTES * 2**20,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(**fonts),
        css_paths=_ASSETS / "page.css",
        head=f"<script>const MEBIBYTES = {MAX_MEBIBYTES};\n{script}</script>",
    )
    blocks.has_launched = True  # before, Gradio takes a file from anywhere
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
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # answers that are cut off
        server.should_exit = True
        thread.join()
