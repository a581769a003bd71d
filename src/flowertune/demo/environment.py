"""Run Gradio in a temporary folder and without what the environment has for it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Gradio serves more, or elsewhere, as these say; nothing here needs a proxy
_NOT_FOR_THE_PAGE = ("GRADIO_", "FASTAPI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """While it is open, temporary files go into the folder that it gives, removed at its end.

    Gradio is to be imported while it is open: it looks at its surroundings then, and at what the
    environment has for it, which is not what was asked of this page.
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
