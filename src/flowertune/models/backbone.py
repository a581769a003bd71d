"""Load a pretrained CLIP model, freeze it and split its attention."""

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from flowertune import files
from flowertune.data.image import Preprocessing
from flowertune.errors import UsageError, one_line
from flowertune.files import expand_user
from flowertune.models import pretrained
from flowertune.models.attention import unfuse_attention
from flowertune.models.kernels.linear import use_onednn_linear
from flowertune.models.kernels.patch_embedding import use_matmul_patches
from flowertune.models.kernels.quick_gelu import fuse_quick_gelu
from flowertune.models.vision_tower import embed
from flowertune.seeding import seeded

TINY = Path(__file__).parents[1] / "assets" / "tiny"  # the built-in CLIP; needs no network
HUB = "hf-hub:"  # open_clip's names of models in other repositories
CONFIG_FILE = "open_clip_config.json"
# In open_clip's order. Pickles (.bin) are read with torch's weights_only loader.
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",  # may be in the format of transformers
    "pytorch_model.bin",
)
NOT_TENSORS = "the file is damaged, or a pickle with other objects than tensors (not executed)"
Tokenizer = Callable[[Sequence[str]], Tensor]  # n strings -> token ids (n, context length)
TEXT_BATCH = 256  # strings per forward pass of the text tower; bounds its memory


@dataclass
class Backbone:
    """An open_clip model in eval mode with frozen parameters and split attention.

    Adapters change `visual` in place. `tag` names the weights; `weights_sha256` is the hash of
    their file, or of the tensors if there is no file. `activation` is "quickgelu" or "gelu", as
    found in the built model. `source` is open_clip's name of the model, or `local-dir:` and a
    folder. Without a usable text tower `tokenizer` is None, and callers must reject zero-shot
    and text heads.
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
    weights_file: Path | None  # None for random weights

    @property
    def has_text(self) -> bool:
        """Whether the backbone has a usable text tower."""
        return self.tokenizer is not None

    @property
    def visual(self) -> nn.Module:
        """The image tower; `vision_tower.embed` is its forward pass."""
        return self.model.visual  # type: ignore[no-any-return]

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities (about 100 for OpenAI's weights)."""
        return float(self.model.logit_scale.detach().exp())

    def facts(self) -> dict[str, Any]:
        """Return the facts that identify the backbone."""
        return {
            "backbone": self.name,
            "tag": self.tag,
            "weights_sha256": self.weights_sha256,
            "activation": self.activation,
            "preprocessing": self.preprocessing.to_dict(),
        }

    def architecture(self) -> dict[str, Any]:
        """Return the `model_cfg` from which open_clip builds the same model."""
        architecture: dict[str, Any] = open_clip.get_model_config(self.source)
        if self.activation == "quickgelu":  # some models get it from the tag of the weights
            architecture["quick_gelu"] = True
        return architecture

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode normalized images (B, 3, H, W) -> embeddings (B, E), not normalized."""
        return embed(self.visual, images)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode n strings -> embeddings (n, E), not normalized. Requires `has_text`."""
        assert self.tokenizer is not None
        device = self.model.logit_scale.device
        tokens = self.tokenizer(list(texts)).to(device)
        # CoCa normalizes by default.
        encode = self.model.encode_text
        return torch.cat([encode(part, normalize=False) for part in tokens.split(TEXT_BATCH)])


def load_pretrained(name: str, tag: str, *, text: bool = True) -> Backbone:
    """Load an open_clip model by name and weights by tag, from the Hugging Face cache or the Hub.

    The weights decide the activation: `ViT-B-32` with `openai` gets QuickGELU. Raises UsageError
    for an unknown name or tag, and if the weights cannot be fetched.

    The name may also be `hf-hub:OWNER/NAME`, a repository with an open_clip folder.
    """
    if name.startswith(HUB):
        repo = name.removeprefix(HUB)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            raise UsageError(f"backbone.name={name}: expected {HUB}OWNER/NAME")
        config = pretrained.fetch(repo, [CONFIG_FILE], f"the config of {name}")
        pretrained.fetch(repo, WEIGHT_FILES, f"the weights of {name}")
        return replace(load_directory(config.parent, text, tag), name=name)
    name, tag, entry, quick_gelu = pretrained.resolve(name, tag)
    repo, _, filename = entry["hf_hub"].rpartition("/")
    path = pretrained.fetch(repo, pretrained.candidates(filename), f"the weights {name} {tag}")
    tokenizer = _tokenizer(name, text)
    model = _build(name, name, quick_gelu=quick_gelu, preprocess=entry, seed=0)
    return _assemble(model, name, name, tag, _read_weights(model, path), tokenizer, path)


def load_random(name: str, seed: int, *, text: bool = True) -> Backbone:
    """Build an open_clip model by name with random weights, for tests and benchmarks."""
    name = pretrained.canonical_model_name(name)
    tokenizer = _tokenizer(name, text)
    model = _build(name, name, quick_gelu=False, preprocess={}, seed=seed)
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return _assemble(model, name, name, "random", digest.hexdigest(), tokenizer, None)


def load_directory(path: str | Path, text: bool, tag: str = "local") -> Backbone:
    """Load an open_clip folder: `open_clip_config.json` and weights; its name names the model.

    Raises UsageError for other folders and for weights that do not fit.
    """
    folder = expand_user(path).resolve()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UsageError(
            f"backbone.path={path}: {problem}; give a folder with {CONFIG_FILE} and"
            f" {WEIGHT_FILES[0]}"
        )
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            f"backbone.path={path}: has no {CONFIG_FILE}; an open_clip folder has that file and"
            f" {WEIGHT_FILES[0]}"
        )
    weight_files = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not weight_files:
        raise UsageError(f"backbone.path={path}: has no weights, such as {WEIGHT_FILES[0]}")
    source = f"local-dir:{folder}"
    model = _build(source, str(folder / CONFIG_FILE), quick_gelu=False, preprocess={}, seed=0)
    path = weight_files[0]
    sha256, tokenizer = _read_weights(model, path), _tokenizer(source, text)
    return _assemble(model, source, folder.name, tag, sha256, tokenizer, path)


def export_directory(backbone: Backbone, folder: Path) -> None:
    """Write an open_clip folder for `load_directory`, to carry to a machine without a network.

    Raises UsageError if the folder exists or the weights are random.
    """
    if backbone.weights_file is None or folder.exists():
        reason = "already exists" if folder.exists() else "random weights are not exported"
        raise UsageError(f"{folder}: {reason}")
    config = {
        "model_cfg": backbone.architecture(), "preprocess_cfg": backbone.preprocessing.to_dict()
    }  # fmt: skip
    suffix = backbone.weights_file.suffix
    name = next((each for each in WEIGHT_FILES if each.endswith(suffix)), WEIGHT_FILES[-1])
    with files.new_folder(folder) as staging:
        files.write_json(staging / CONFIG_FILE, config)
        shutil.copyfile(backbone.weights_file, staging / name)


def _build(
    source: str, label: str, *, quick_gelu: bool, preprocess: dict[str, Any], seed: int
) -> nn.Module:
    """Build the model that `source` names with random weights."""
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
    # A wrong config can raise anything, and some models need packages that are not installed.
    except Exception as error:
        raise UsageError(f"cannot build the model {label}: {one_line(error)}") from error


def _read_weights(model: nn.Module, path: Path) -> str:
    """Load a weights file into the model; returns the file's sha256."""
    try:
        with pretrained.quiet():
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    # A truncated file, another format, a pickle with code or wrong tensors: safetensors, pickle,
    # zipfile and torch each raise their own types.
    except Exception as error:
        is_safe = isinstance(error, (OSError, RuntimeError, SafetensorError))
        reason = one_line(error) if is_safe else NOT_TENSORS  # torch would advise to run the code
        raise UsageError(f"cannot read the weights {path}: {reason}") from error
    return files.sha256_of(path)


def _tokenizer(source: str, text: bool) -> Tokenizer | None:
    if not text:
        return None
    config = open_clip.get_model_config(source)
    hub_name = config["text_cfg"].get("hf_tokenizer_name")
    if hub_name and not source.startswith("local-dir:"):
        # Fetch one small file first, which fails within seconds; transformers retries for longer.
        filenames = ("tokenizer_config.json", "tokenizer.json")
        pretrained.fetch(hub_name, filenames, f"the tokenizer of {source}")
    try:
        with pretrained.quiet():
            tokenizer: Tokenizer = open_clip.get_tokenizer(source)
            return tokenizer
    except Exception as error:  # from transformers, or because it is not installed
        raise UsageError(
            f"cannot load the tokenizer of {source}: {one_line(error)};"
            " set backbone.text=false to do without it"
        ) from error


def _assemble(
    model: open_clip.CLIP,
    source: str,
    name: str,
    tag: str,
    sha256: str,
    tokenizer: Tokenizer | None,
    weights_file: Path | None,
) -> Backbone:
    unfuse_attention(model)
    use_onednn_linear(model)
    use_matmul_patches(model)
    activation = "quickgelu" if fuse_quick_gelu(model) else "gelu"
    model.requires_grad_(False).eval()
    preprocessing = Preprocessing.from_dict(open_clip.get_model_preprocess_cfg(model))
    with torch.no_grad():  # the only way to get the width that works for every kind of tower
        embedding_dim = embed(model.visual, torch.zeros(1, 3, *preprocessing.size)).shape[1]
    return Backbone(
        model, tokenizer, preprocessing, name, tag, sha256, activation, embedding_dim, source,
        weights_file,
    )  # fmt: skip
