"""Load the pretrained CLIP, freeze it and split its attention; facts for the run's record."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from flowertune import files
from flowertune.data.image import Preprocessing
from flowertune.errors import UsageError, one_line
from flowertune.models import pretrained
from flowertune.models.attention import unfuse_attention
from flowertune.models.kernels.linear import use_onednn_linear
from flowertune.models.kernels.patch_embedding import use_matmul_patches
from flowertune.models.kernels.quick_gelu import fuse_quick_gelu
from flowertune.models.vision_tower import embed
from flowertune.seeding import seeded

TINY = Path(__file__).parents[1] / "assets" / "tiny"  # the built-in CLIP, which needs no network
CONFIG_FILE = "open_clip_config.json"
# In the order of preference; the pickles (.bin) are read by torch's weights_only loader alone.
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
NOT_TENSORS = "it is damaged, or a pickle of more than tensors, which is never run"
Tokenizer = Callable[[Sequence[str]], Tensor]  # n strings -> token ids (n, context length)
TEXT_BATCH = 256  # strings at once through the text tower, to bound its memory


@dataclass
class Backbone:
    """An open_clip model in eval mode with every parameter frozen and its attention split.

    `tag` names the weights. `activation` is "quickgelu" or "gelu", read off the built model.
    `weights_sha256` is the hash of the weights file (of the tensors, where there is no file).
    There is no tokenizer where the text tower means nothing: then zero-shot and text heads are the
    caller's to refuse. An adapter is put into `visual` in place.
    `source` is what open_clip calls the model: its name, or `local-dir:` and a folder.
    """

    model: open_clip.CLIP
    tokenizer: Tokenizer | None
    preprocessing: Preprocessing
    name: str
    tag: str
    weights_sha256: str
    activation: str
    embedding_dim: int
    source: str

    @property
    def has_text(self) -> bool:
        """Whether the text tower means something."""
        return self.tokenizer is not None

    @property
    def visual(self) -> nn.Module:
        """The image tower; `vision_tower.embed` is its forward pass."""
        return self.model.visual  # type: ignore[no-any-return]

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities (about 100 for OpenAI's weights)."""
        return float(self.model.logit_scale.detach().exp())

    def facts(self) -> dict[str, Any]:
        """Facts that identify the backbone: name, tag, hash, activation, preprocessing."""
        return {
            "backbone": self.name,
            "tag": self.tag,
            "weights_sha256": self.weights_sha256,
            "activation": self.activation,
            "preprocessing": self.preprocessing.to_dict(),
        }

    def architecture(self) -> dict[str, Any]:
        """Return open_clip's `model_cfg`, from which it builds the model again."""
        architecture: dict[str, Any] = open_clip.get_model_config(self.source)
        if self.activation == "quickgelu":  # for some names it comes with the tag of the weights
            architecture["quick_gelu"] = True
        return architecture

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode normalized images (B, 3, H, W) -> embedding (B, E), not of unit length."""
        return embed(self.visual, images)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode n strings -> embedding (n, E), not of unit length. Needs `has_text`."""
        assert self.tokenizer is not None, "a backbone without text cannot encode text"
        device = self.model.logit_scale.device
        tokens = self.tokenizer(list(texts)).to(device)
        # CoCa normalizes unless told otherwise.
        encode = self.model.encode_text
        return torch.cat([encode(part, normalize=False) for part in tokens.split(TEXT_BATCH)])


def load_pretrained(name: str, tag: str, *, text: bool = True) -> Backbone:
    """Load an open_clip model by name and weights by tag, from the hub's cache or the hub.

    The activation follows the weights: `ViT-B-32` with `openai` gets QuickGELU. Raises UsageError
    for an unknown name or tag, and where the weights cannot be fetched.
    """
    name, tag, entry, quick_gelu = pretrained.resolve(name, tag)
    repo, _, filename = entry["hf_hub"].rpartition("/")
    path = pretrained.fetch(repo, pretrained.candidates(filename), f"the weights {name} {tag}")
    tokenizer = _tokenizer(name, text)
    model = _build(name, name, quick_gelu=quick_gelu, preprocess=entry, seed=0)
    return _assemble(model, name, name, tag, _read_weights(model, path), tokenizer)


def load_random(name: str, seed: int, *, text: bool = True) -> Backbone:
    """Build an open_clip model by name with random weights of `seed`: for tests and benchmarks."""
    name = pretrained.canonical_model_name(name)
    tokenizer = _tokenizer(name, text)
    model = _build(name, name, quick_gelu=False, preprocess={}, seed=seed)
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return _assemble(model, name, name, "random", digest.hexdigest(), tokenizer)


def load_directory(path: str | Path, text: bool, tag: str = "local") -> Backbone:
    """Load an open_clip directory: `open_clip_config.json` and weights; name = the folder's name.

    Raises UsageError for a folder that is not one, and for weights that do not fit.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise UsageError(f"backbone.path={path}: there is no such folder")
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            f"backbone.path={path}: no {CONFIG_FILE} in it; an open_clip folder has that and"
            f" {WEIGHT_FILES[0]}"
        )
    weight_files = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not weight_files:
        raise UsageError(f"backbone.path={path}: no weights in it, such as {WEIGHT_FILES[0]}")
    source = f"local-dir:{folder}"
    model = _build(source, str(folder / CONFIG_FILE), quick_gelu=False, preprocess={}, seed=0)
    sha256 = _read_weights(model, weight_files[0])
    return _assemble(model, source, folder.name, tag, sha256, _tokenizer(source, text))


def _build(
    source: str, label: str, *, quick_gelu: bool, preprocess: dict[str, Any], seed: int
) -> nn.Module:
    """Build the model that `source` names with random weights of `seed` and its preprocessing."""
    try:
        with pretrained.quiet(), seeded(seed, "backbone"):
            model: nn.Module = open_clip.create_model(
                source,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg=preprocess,
            )
            return model
    # A config can be wrong in as many ways as a model has parameters; some models need packages
    # that are not ours.
    except Exception as error:
        raise UsageError(f"cannot build the model of {label}: {one_line(error)}") from error


def _read_weights(model: nn.Module, path: Path) -> str:
    """Load a file's weights into the model; returns the file's sha256."""
    try:
        with pretrained.quiet():
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    # Cut, not a weights file, a pickle with code in it, other tensors than the model's: each has
    # a type of its own in safetensors, pickle, zipfile and torch.
    except Exception as error:
        is_safe = isinstance(error, (OSError, RuntimeError, SafetensorError))
        reason = one_line(error) if is_safe else NOT_TENSORS  # not torch's advice to run its code
        raise UsageError(f"cannot read the weights {path}: {reason}") from error
    return files.sha256_of(path)


def _tokenizer(source: str, text: bool) -> Tokenizer | None:
    if not text:
        return None
    config = open_clip.get_model_config(source)
    hub_name = config["text_cfg"].get("hf_tokenizer_name")
    if hub_name and not source.startswith("local-dir:"):
        # Ask for one small file first: within seconds, unlike transformers, which retries.
        filenames = ("tokenizer_config.json", "tokenizer.json")
        pretrained.fetch(hub_name, filenames, f"the tokenizer of {source}")
    try:
        with pretrained.quiet():
            tokenizer: Tokenizer = open_clip.get_tokenizer(source)
            return tokenizer
    except Exception as error:  # transformers' own, or that it is not installed
        raise UsageError(
            f"cannot load the tokenizer of {source}: {one_line(error)};"
            " backbone.text=false does without it"
        ) from error


def _assemble(
    model: open_clip.CLIP,
    source: str,
    name: str,
    tag: str,
    sha256: str,
    tokenizer: Tokenizer | None,
) -> Backbone:
    unfuse_attention(model)
    use_onednn_linear(model)
    use_matmul_patches(model)
    activation = "quickgelu" if fuse_quick_gelu(model) else "gelu"
    model.requires_grad_(False).eval()
    preprocessing = Preprocessing.from_dict(open_clip.get_model_preprocess_cfg(model))
    with torch.no_grad():  # the one measure of the width that holds for every kind of tower
        embedding_dim = embed(model.visual, torch.zeros(1, 3, *preprocessing.size)).shape[1]
    return Backbone(
        model, tokenizer, preprocessing, name, tag, sha256, activation, embedding_dim, source
    )
