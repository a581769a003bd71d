"""Train with a loop as in a typical notebook: torchvision, open_clip's image tower, peft, autocast.

Two peers share it. `notebook` splits each nn.MultiheadAttention into four Linear layers, like the
code of CLIP-LoRA (Zanella & Ben Ayed, 2024), and applies peft's LoRA to them. `peft_mha` keeps the
attention and uses peft's wrapper of it: one update for q, k and v together.
"""

import math
import time
from pathlib import Path
from typing import Any

import open_clip
import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.runtime.device import choose_compute
from peers import photos
from peers.work import CLIP_NORM, HEAD_LR, LR, WARMUP_EPOCHS, WEIGHT_DECAY, Work, epoch_result


class OpenAttention(nn.Module):
    """nn.MultiheadAttention of a self-attention, with Linear layers for LoRA."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        self.heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        self.out_proj.load_state_dict(attention.out_proj.state_dict())
        weights = attention.in_proj_weight.detach().chunk(3)
        biases = attention.in_proj_bias.detach().chunk(3)
        for layer, weight, bias in zip(
            (self.q_proj, self.k_proj, self.v_proj), weights, biases, strict=True
        ):
            layer.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Map tokens (B, N, D) to (B, N, D), and None like the weights of nn.MultiheadAttention."""
        batch, tokens, width = q.shape
        q, k, v = (
            each.view(batch, tokens, self.heads, -1).transpose(1, 2)
            for each in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width)), None


def tower(work: Work, opened: bool) -> nn.Module:
    """Load open_clip's image tower with LoRA."""
    visual = open_clip.create_model(f"local-dir:{work.backbone}").visual
    targets = ["attn"]
    if opened:
        for block in visual.transformer.resblocks:
            block.attn = OpenAttention(block.attn)
        targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
    config = peft.LoraConfig(r=work.rank, lora_alpha=work.alpha, target_modules=targets)
    return peft.get_peft_model(visual, config)  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """Image tower and linear head."""

    def __init__(self, visual: nn.Module, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(embedding_dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, C)."""
        return self.head(self.visual(images))  # type: ignore[no-any-return]


def run(work: Work, scratch: Path, *, opened: bool) -> dict[str, Any]:
    """Train once, with validation after each epoch."""
    torch.manual_seed(work.seed)
    compute = choose_compute(work.device, work.precision)
    device = compute.device
    visual: Any = tower(work, opened)
    size = visual.image_size[0]
    train_set = photos.folder(work, "train", photos.crop_and_flip(size), photos.to_input())
    val_set = photos.folder(work, "val", photos.resize_and_crop(size), photos.to_input())
    model = Classifier(visual, visual.output_dim, len(train_set.classes)).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    adapter = [p for p in visual.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": adapter, "lr": LR}, {"params": model.head.parameters(), "lr": HEAD_LR}],
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )

    began = time.perf_counter()
    train_loader = photos.loader(train_set, work, device.type, training=True)
    val_loader = photos.loader(val_set, work, device.type, training=False)
    warmup, total = WARMUP_EPOCHS * len(train_loader), work.epochs * len(train_loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / (warmup + 1)
            if step < warmup
            else (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
        ),
    )
    scaler = torch.amp.GradScaler(device.type, enabled=compute.precision == "fp16")
    train_seconds, val_seconds = [], []
    for _ in range(work.epochs):
        model.train()
        losses = torch.zeros((), device=device)
        for images, labels in train_loader:
            images, labels = (each.to(device, non_blocking=True) for each in (images, labels))
            with compute.autocast():
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained, CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            losses += loss.detach() * len(labels)
        mean_loss = losses.item() / len(train_set)
        ended = time.perf_counter()
        train_seconds.append(ended - began)

        model.eval()
        right = torch.zeros((), device=device)
        with torch.inference_mode():
            for images, labels in val_loader:
                images, labels = (each.to(device, non_blocking=True) for each in (images, labels))
                with compute.autocast():
                    right += (model(images).argmax(1) == labels).sum()
        top1 = right.item() / len(val_set)
        began = time.perf_counter()
        val_seconds.append(began - ended)
    attention = "Linear layers" if opened else "nn.MultiheadAttention"
    return {
        **epoch_result(train_seconds, val_seconds, len(train_set)),
        "loss": mean_loss,
        "val_top1": top1,
        "trainable_parameters": sum(p.numel() for p in trained),
        "device": compute.device_name,
        "precision": compute.precision,
        "settings": f"{work.workers} persistent DataLoader workers, pin_memory"
        f" {device.type == 'cuda'}, PIL and torchvision, autocast {compute.precision},"
        f" fused AdamW, {attention} and scaled_dot_product_attention",
    }
