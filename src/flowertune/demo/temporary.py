"""Where uploads lie, and whatever else Gradio writes: a folder that goes with the page."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_folder() -> Iterator[None]:
    """While it is open, temporary files go into a folder that is removed at its end.

    Gradio is to be imported while it is open: it keeps the place that it finds then.
    """
    before = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="flowertune-demo-") as folder:
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir, named = before
            if named is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = named
