"""Train with transformers' Trainer and peft's LoRA on transformers' CLIP."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from flowertune.runtime.device import choose_compute
from peers import photos
from peers.work import (
    CLIP_NORM,
    EVAL_BATCH_SIZE,
    LR,
    PREPROCESS,
    WARMUP_EPOCHS,
    WEIGHT_DECAY,
    Work,
    epoch_result,
)

# names inside a block in open_clip and transformers
BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def tower(backbone: Path) -> transformers.CLIPVisionModelWithProjection:
    """Load the image tower of an open_clip directory into transformers."""
    model = json.loads((backbone / "open_clip_config.json").read_text())["model_cfg"]
    vision = model["vision_cfg"]
    config = transformers.CLIPVisionConfig(
        hidden_size=vision["width"],
        intermediate_size=4 * vision["width"],
        projection_dim=model["embed_dim"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["width"] // vision.get("head_width", 64),
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        hidden_act="quick_gelu" if model.get("quick_gelu") else "gelu",
    )
    visual = transformers.CLIPVisionModelWithProjection(config)
    state = load_file(backbone / "open_clip_model.safetensors")
    visual.load_state_dict(_renamed(state), strict=True)
    return visual


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of open_clip's image tower under the names of transformers."""
    own = {name.removeprefix("visual."): each for name, each in state.items()
           if name.startswith("visual.")}  # fmt: skip
    vision = "vision_model."
    renamed = {
        f"{vision}embeddings.class_embedding": own["class_embedding"],
        f"{vision}embeddings.patch_embedding.weight": own["conv1.weight"],
        f"{vision}embeddings.position_embedding.weight": own["positional_embedding"],
        "visual_projection.weight": own["proj"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        renamed[f"{vision}pre_layrnorm.{kind}"] = own[f"ln_pre.{kind}"]
        renamed[f"{vision}post_layernorm.{kind}"] = own[f"ln_post.{kind}"]
    for name, tensor in own.items():
        if not name.startswith("transformer.resblocks."):
            continue
        _, _, block, inner = name.split(".", 3)
        layer = f"{vision}encoder.layers.{block}."
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            for part, each in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}self_attn.{part}_proj.{kind}"] = each.contiguous()
        else:
            module, _, kind = inner.rpartition(".")
            renamed[f"{layer}{BLOCK_NAMES[module]}.{kind}"] = tensor
    return renamed


class Classifier(nn.Module):
    """Image tower and linear head; returns a dict with the loss, as Trainer expects."""

    def __init__(self, visual: nn.Module, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(embedding_dim, classes)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) and labels (B,) to loss and logits (B, C)."""
        logits = self.head(self.visual(pixel_values=pixel_values).image_embeds)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Stopwatch(transformers.TrainerCallback):
    """Seconds of training and validation per epoch."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.mark = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.train.append(self._lap())

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.val.append(self._lap())

    def _lap(self) -> float:
        before, self.mark = self.mark, time.perf_counter()
        return self.mark - before


def run(work: Work, scratch: Path) -> dict[str, Any]:
    """Train once, with validation after each epoch."""
    transformers.set_seed(work.seed)
    compute = choose_compute(work.device, work.precision)
    visual = tower(Path(work.backbone))
    shape: Any = visual.config
    size, embedding_dim = shape.image_size, shape.projection_dim
    config = peft.LoraConfig(
        r=work.rank,
        lora_alpha=work.alpha,
        target_modules=["q_proj", "k_proj", "v_proj", "out_proj"],
    )
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=PREPROCESS["mean"],
        image_std=PREPROCESS["std"],
    )
    crop_and_flip = photos.crop_and_flip(size)

    def varied(picture: Any) -> Tensor:
        ready = processor(
            crop_and_flip(picture), return_tensors="pt", do_resize=False, do_center_crop=False
        )
        return ready["pixel_values"][0]  # type: ignore[no-any-return]

    def plain(picture: Any) -> Tensor:
        return processor(picture, return_tensors="pt")["pixel_values"][0]  # type: ignore[no-any-return]

    train_set = photos.folder(work, "train", varied)
    val_set = photos.folder(work, "val", plain)
    steps = -(-len(train_set) // work.batch_size)
    model = Classifier(peft.get_peft_model(visual, config), embedding_dim, len(train_set.classes))
    watch = Stopwatch()
    arguments = transformers.TrainingArguments(
        output_dir=str(scratch / "trainer"),
        per_device_train_batch_size=work.batch_size,
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        num_train_epochs=work.epochs,
        learning_rate=LR,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP_NORM,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP_EPOCHS * steps,
        optim="adamw_torch_fused",
        bf16=compute.precision == "bf16",
        fp16=compute.precision == "fp16",
        use_cpu=compute.device.type == "cpu",
        dataloader_num_workers=work.workers,
        dataloader_persistent_workers=work.workers > 0,
        dataloader_pin_memory=compute.device.type == "cuda",
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        seed=work.seed,
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=val_set,
        data_collator=_collate,
        compute_metrics=lambda found: {
            "top1": float(np.mean(np.argmax(found.predictions, 1) == found.label_ids))
        },
        callbacks=[watch],
    )
    trainer.train()
    history = trainer.state.log_history
    return {
        **epoch_result(watch.train, watch.val, len(train_set)),
        "loss": [line["loss"] for line in history if "loss" in line][-1],
        "val_top1": [line["eval_top1"] for line in history if "eval_top1" in line][-1],
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": compute.device_name,
        "precision": compute.precision,
        "settings": f"{work.workers} persistent DataLoader workers, pin_memory"
        f" {arguments.dataloader_pin_memory}, CLIPImageProcessor"
        f" ({type(processor).__mro__[1].__name__}), fused AdamW, bf16 {arguments.bf16},"
        f" fp16 {arguments.fp16}, attention {shape._attn_implementation}",
    }


def _collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.stack([image for image, _ in samples]),
        "labels": torch.tensor([label for _, label in samples]),
    }
