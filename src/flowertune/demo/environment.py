"""Run Gradio in a temporary folder, without its environment variables."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# these make Gradio serve more, or elsewhere; the page needs no proxy
_NOT_FOR_THE_PAGE = ("GRADIO_", "FASTAPI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Put all temporary files into the folder that it yields, which is removed at the end.

    Import Gradio inside of it, as Gradio reads the environment when it is imported.
    """
    before, environment = tempfile.tempdir, dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="flowertune-demo-") as name:
        folder = Path(name).resolve()
        for key in environment:
            if key.upper().startswith(_NOT_FOR_THE_PAGE):
                del os.environ[key]
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = os.environ["MPLCONFIGDIR"] = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before
            os.environ.clear()
            os.environ.update(environment)
