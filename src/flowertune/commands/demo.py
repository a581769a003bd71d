"""`flowertune demo`: serve a page to try a finished run."""

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
    """Serve the page until a signal ends it, then return 0."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not installed; pip install 'flowertune[demo]'")
    run = read_finished_run(args.run)
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
                stop.deferred(lambda text: None),  # nothing is half done that would be told
                page.serve(blocks, folder, hosts, listener) as thread,
            ):
                address, port = listener.getsockname()[:2]
                if hosts is None:
                    console.warn(f"whoever reaches {address} on port {port} can use the page")
                console.say(f"http://{address}:{port} (Ctrl-C ends it)")
                while stop.received is None and thread.is_alive():
                    thread.join(0.2)
            if stop.received is None:
                raise FlowertuneError("the page's server has ended")
    return EXIT_DONE


def _open_socket(host: str, port: int | None) -> socket.socket:
    """Open a listening socket; without a port, on the usual one or any free one."""
    try:
        return socket.create_server((host, port or PORT))
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return socket.create_server((host, 0))
        flags = f"--host {host}" + ("" if port is None else f" --port {port}")
        # Python adds the address to what the system says of it
        code = error.errno or 0
        reason = os.strerror(code) if code in errno.errorcode else error.strerror
        raise UsageError(f"{flags}: {reason}") from error
