"""Names of open_clip models and tags of their weights: which there are, and which activation."""

import difflib
from typing import Any

import open_clip

from flowertune.errors import Refused

QUICKGELU = "-quickgelu"


def known_model(name: str) -> str:
    """open_clip's spelling of a model's name. Raises Refused, with close matches, for others."""
    cleaned = name.replace("/", "-")
    models = open_clip.list_models()
    if cleaned not in models:
        raise Refused(
            f"open_clip has no model {name!r}{_close(cleaned, models)};"
            " a folder of your own: backbone=local backbone.path=..."
        )
    return cleaned


def resolve(name: str, tag: str) -> tuple[str, str, dict[str, Any], bool]:
    """(name, tag, open_clip's entry for the weights, whether the model needs QuickGELU).

    Raises Refused for unknown ones, and for a QuickGELU model with weights that were trained
    without it (open_clip builds such a model and only warns; its accuracy is lower).
    """
    name, tag = known_model(name), tag.lower().replace("-", "_")
    entry = open_clip.get_pretrained_cfg(name, tag)
    plain = name.removesuffix(QUICKGELU)
    if not entry and plain != name and open_clip.is_pretrained_cfg(plain, tag):
        raise Refused(
            f"the weights {tag!r} were trained without QuickGELU: use {plain!r}, not {name!r}"
        )
    if not entry:
        tags = open_clip.list_pretrained_tags_by_model(name)
        known = f"; it has {', '.join(tags)}" if 0 < len(tags) <= 8 else ""
        raise Refused(f"{name} has no weights {tag!r}{_close(tag, tags)}{known}")
    # Either may say so: some models have it in their config and not in the entry of the weights.
    quick_gelu = bool(entry.get("quick_gelu") or open_clip.get_model_config(name).get("quick_gelu"))
    return name, tag, entry, quick_gelu


def candidates(filename: str) -> tuple[str, ...]:
    """File names to try on the hub for one in open_clip's list, safetensors first.

    An empty name stands for open_clip's own two.
    """
    if not filename:
        return "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
    stem, _, extension = filename.rpartition(".")
    if extension in ("bin", "pth", "pt"):
        return f"{stem}.safetensors", filename
    return (filename,)


def _close(word: str, known: list[str]) -> str:
    by_lower = {item.lower(): item for item in reversed(known)}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    return f" (did you mean {', '.join(by_lower[match] for match in matches)}?)" if matches else ""
