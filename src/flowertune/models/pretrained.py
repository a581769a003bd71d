"""Find open_clip's weight files and download them.

Files in the Hugging Face cache need no network. For others the host must answer within
`REACH_SECONDS`, so that a machine without network fails at once; downloads have no time limit.
"""

import contextlib
import difflib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip

from flowertune.data.download import call_with_timeout
from flowertune.errors import UsageError, one_line

# To resolve, connect to and get an answer from the host: the error must appear within ten seconds
# of the command, start included.
REACH_SECONDS = 3.0
ADVICE = "use backbone=tiny (built in), or backbone=local backbone.path=<open_clip folder>"

QUICKGELU = "-quickgelu"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the log lines of open_clip and huggingface_hub."""
    root, previous = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()  # without one, `logging.warning` in open_clip installs its own
    root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)
        root.removeHandler(handler)


def fetch(repo: str, filenames: Sequence[str], what: str) -> Path:
    """Fetch the first of `filenames` that the Hub's `repo` has, from the cache or the network.

    `what` names the file in messages. Raises UsageError if it is not available.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    for filename in filenames:
        cached = try_to_load_from_cache(repo, filename)
        if isinstance(cached, str):
            return Path(cached)
    with quiet():
        try:
            found = call_with_timeout(REACH_SECONDS, partial(_first_on_hub, repo, filenames))
            if found is not None:
                return Path(hf_hub_download(repo, found))
            reason = f"{' or '.join(filenames)} not found"
        except TimeoutError:
            reason = f"no answer within {REACH_SECONDS:.0f} s"
        # huggingface_hub raises what its HTTP library raises, which differs between versions
        # (requests, httpx, xet).
        except Exception as error:
            reason = one_line(error)
    raise UsageError(f"cannot fetch {what} ({constants.ENDPOINT}/{repo}): {reason}; {ADVICE}")


def _first_on_hub(repo: str, filenames: Sequence[str]) -> str | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for filename in filenames:
        with contextlib.suppress(EntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(repo, filename), timeout=REACH_SECONDS)
            return filename
    return None


def canonical_model_name(name: str) -> str:
    """Return open_clip's spelling of a model name; raises UsageError with close matches."""
    cleaned = name.replace("/", "-")
    models = open_clip.list_models()
    if cleaned not in models:
        raise UsageError(
            f"open_clip has no model {name!r}{_suggest(cleaned, models)};"
            " for your own open_clip folder, use backbone=local backbone.path=..."
        )
    return cleaned


def resolve(name: str, tag: str) -> tuple[str, str, dict[str, Any], bool]:
    """Look up name, tag, open_clip's entry for the weights, and whether the model needs QuickGELU.

    Raises UsageError for unknown names and tags, and for a QuickGELU model with weights trained
    without it: open_clip only warns, but accuracy is lower.
    """
    if "/" in tag or "\\" in tag or tag.endswith((".pt", ".bin", ".safetensors")):
        raise UsageError(
            f"backbone.tag={tag}: is a path; for an open_clip folder, use backbone=local"
            " backbone.path=DIR"
        )
    name, tag = canonical_model_name(name), tag.lower().replace("-", "_")
    entry = open_clip.get_pretrained_cfg(name, tag)
    plain = name.removesuffix(QUICKGELU)
    if not entry and plain != name and open_clip.is_pretrained_cfg(plain, tag):
        raise UsageError(
            f"the weights {tag!r} were trained without QuickGELU; use {plain!r}, not {name!r}"
        )
    if not entry:
        tags = open_clip.list_pretrained_tags_by_model(name)
        listing = f"; it has {', '.join(tags)}" if 0 < len(tags) <= 8 else ""
        raise UsageError(f"{name} has no weights {tag!r}{_suggest(tag, tags)}{listing}")
    # Some models have it only in their config, not in the entry of the weights.
    quick_gelu = bool(entry.get("quick_gelu") or open_clip.get_model_config(name).get("quick_gelu"))
    return name, tag, entry, quick_gelu


def candidates(filename: str) -> tuple[str, ...]:
    """List the file names to try on the Hub for a name in open_clip's list, safetensors first."""
    if not filename:  # open_clip's defaults
        return "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
    stem, _, extension = filename.rpartition(".")
    if extension in ("bin", "pth", "pt"):
        return f"{stem}.safetensors", filename
    return (filename,)


def _suggest(word: str, names: list[str]) -> str:
    by_lower = {name.lower(): name for name in reversed(names)}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    return f" (did you mean {', '.join(by_lower[match] for match in matches)}?)" if matches else ""
