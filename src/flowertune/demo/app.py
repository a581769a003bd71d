"""Build and serve the demo page. Imports Gradio, which takes seconds."""

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
from flowertune.demo.answer import Neighbors, explain
from flowertune.inference.predictor import Predictor

MAX_MEBIBYTES = 64  # of a file
MAX_IMAGES = 24  # at once
MAX_CARDS = 2 * MAX_IMAGES  # cards on the page
SHUTDOWN_TIMEOUT_S = 2  # seconds that an answer under way has, when the server is to end

_ASSETS = Path(__file__).parent / "assets"


def build_page(model: Predictor, neighbors: Neighbors, lead: str) -> gr.Blocks:
    """Build an upload box above a card for each image, newest first. `lead` is HTML."""

    def respond(uploads: Sequence[str] | None, n_used: int) -> Iterator[dict[Any, Any]]:
        paths = [Path(upload) for upload in uploads or ()]
        chosen = paths[:MAX_IMAGES]
        message = cards.left_out(len(paths) - len(chosen), MAX_IMAGES)
        updates = {upload_box: None, status: cards.status(0, len(chosen)), notice: message}
        if n_used + len(chosen) > MAX_CARDS:
            n_used = 0
            updates.update(dict.fromkeys(slots, ""))
        yield {**updates, n_cards: n_used + len(chosen)}  # the place is free again
        for n_done, path in enumerate(chosen, start=1):
            card = cards.render_card(path.name, explain(model, neighbors, path), neighbors.caption)
            yield {slots[n_used + n_done - 1]: card, status: cards.status(n_done, len(chosen))}

    with gr.Blocks(title="flowertune", analytics_enabled=False) as blocks:
        gr.HTML(lead, elem_id="lead", padding=False)
        upload_box = gr.File(
            label=f"Photos: drop, paste or choose ({MAX_IMAGES} at once,"
            f" of {MAX_MEBIBYTES} MiB at most)",
            file_count="multiple",
            type="filepath",
            elem_id="photos",
        )
        with gr.Column(elem_id="said"):
            gr.HTML('<p id="refused" role="alert"></p>', padding=False)  # photos.js writes there
            notice = gr.HTML(padding=False)
            status = gr.HTML(padding=False)
        n_cards = gr.State(0)
        with gr.Column(elem_id="answers"):  # from the last to the first, see page.css
            slots = [gr.HTML(padding=False) for _ in range(MAX_CARDS)]
        upload_box.upload(
            respond,
            [upload_box, n_cards],
            [upload_box, n_cards, notice, status, *slots],
            api_visibility="private",
            concurrency_limit=1,  # one model, and what is looked at in it is the answer's own
            trigger_mode="multiple",
            show_progress="hidden",
        )
    return blocks


@contextmanager
def serve(
    blocks: gr.Blocks, folder: Path, hosts: Sequence[str] | None, listener: socket.socket
) -> Iterator[threading.Thread]:
    """Serve the page in a thread while the body runs, and yield the thread.

    folder: where uploads lie. hosts: the names that a browser may know the server by; any, where
    None. Not by Blocks.launch(), which answers a preflight of any other page before our checks, and
    binds the port itself.
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
        theme=gr.themes.Default(**fonts),
        css_paths=_ASSETS / "page.css",
        head=f"<script>const MEBIBYTES = {MAX_MEBIBYTES};\n{script}</script>",
    )
    blocks.has_launched = True  # before, Gradio takes a file from anywhere
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S)
    )
    thread = threading.Thread(target=server.run, args=([listener],), name="demo", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # answers that are cut off
        server.should_exit = True
        thread.join()
