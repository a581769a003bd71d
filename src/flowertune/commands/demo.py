"""`flowertune demo`: try a trained run in the browser."""

import errno
import importlib.util
import os
import socket
from argparse import Namespace

from flowertune.data.cache.decode import quiet_pil
from flowertune.demo import cards
from flowertune.demo.answer import load_neighbors
from flowertune.demo.environment import temporary_folder
from flowertune.errors import EXIT_DONE, FlowertuneError, UsageError
from flowertune.inference import predictor
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.finished import read_finished_run
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.signals import install_handlers

PORT = 7860  # Gradio's
LOOPBACK = ("127.0.0.1", "localhost")
PACKAGES = ("gradio", "uvicorn")


def execute(args: Namespace) -> int:
    """Serve the page until a signal arrives."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not installed; pip install 'flowertune[demo]'")
    run = read_finished_run(args.run, args.backbone_path)
    compute = predictor.compute_for(run.config, args.device, args.precision)
    with _open_socket(args.host, args.port) as listener:
        make_deterministic(run.config.trainer.deterministic, compute.device)
        memory.keep_freed()
        model = predictor.load_model(run, compute)
        console = ConsoleReporter()
        with console.progress():
            index = load_neighbors(model, args.photos, console.warn, console.advance)
        if not index.paths:
            console.say(index.caption)

        with temporary_folder() as folder:
            from flowertune.demo import app as page  # Gradio takes seconds to import

            lead = cards.lead(run.name, run.results, len(model.class_names))
            hosts = LOOPBACK if args.host in LOOPBACK else None
            blocks = page.build_page(model, index, lead)
            with (
                quiet_pil(),
                install_handlers() as stop,
                stop.deferred(lambda text: None),  # nothing to finish or save
                page.serve(blocks, folder, hosts, listener) as thread,
            ):
                address, port = listener.getsockname()[:2]
                if hosts is None:
                    console.warn(f"anyone who can reach {address} port {port} can use this page")
                console.say(f"http://{address}:{port} (press Ctrl-C to stop)")
                while stop.received is None and thread.is_alive():
                    thread.join(0.2)
            if stop.received is None:
                raise FlowertuneError("the server stopped unexpectedly")
    return EXIT_DONE


def _open_socket(host: str, port: int | None) -> socket.socket:
    """Open a listening socket; without a port, on the default one or any free one."""
    try:
        return socket.create_server((host, port or PORT))
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return socket.create_server((host, 0))
        flags = f"--host {host}" + ("" if port is None else f" --port {port}")
        # Python appends the address to the system's message
        code = error.errno or 0
        reason = os.strerror(code) if code in errno.errorcode else error.strerror
        raise UsageError(f"{flags}: {reason}") from error
