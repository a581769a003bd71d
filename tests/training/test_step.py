"""What a step asks of the device: nothing that the host would have to wait for, nothing twice."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import peft
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowertune.config.model import LoraConfig
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.transforms.mixup import MixSettings
from flowertune.losses import factory
from flowertune.models.adapters.lora import LORA
from flowertune.models.backbone import load_directory
from flowertune.models.vision_tower import embed
from flowertune.runtime.device import Compute
from flowertune.training.batches import load_steps
from flowertune.training.ema import EMA
from flowertune.training.step import TrainStep

META = torch.device("meta")  # has shapes and no values: to look at one is an error
CROSS_ENTROPY = partial(factory.cross_entropy, label_smoothing=0.0)
TRIPLET = partial(
    factory.triplet_cross_entropy,
    label_smoothing=0.1,
    margin=0.3,
    weight=0.5,
    distance="euclidean",
    normalize=True,
    reduction="nonzero_mean",
)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("model", ["lora", "full"])
@pytest.mark.parametrize("variant", ["plain", "mixup", "cutmix", "triplet"])
def test_the_host_never_waits_for_a_value(prepare, mixup, variant, model, resident, monkeypatch):
    """From the photos' numbers to the averaged weights, in steps of two batches."""
    monkeypatch.setattr(Compute, "asynchronous", True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know META
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    plain = replace(mixup, saturation=0.2, mixing=None)
    mixing = MixSettings(variant, 0.4, last_epoch=9) if variant.endswith("mix") else None
    recipe = mixup if variant == "mixup" else replace(plain, mixing=mixing)
    training = prepare(model=model, recipe=recipe, dropout=0.1 if model == "lora" else 0.0)
    classifier = training.classifier.to(META).train()
    photos = replace(
        training.photos,
        pixels=DevicePixels(np.zeros((16, 3, 32, 32), np.uint8), META, resident=resident),
        mean=training.photos.mean.to(META),
        std=training.photos.std.to(META),
    )
    trained = [p for group in classifier.parameter_groups().values() for p in group]
    # in the place of fused AdamW, which has no kernels for META
    optimizer = torch.optim.RMSprop(trained)
    optimizer.defaults["fused"] = True
    criterion = TRIPLET if variant == "triplet" else CROSS_ENTROPY
    step = TrainStep(classifier, criterion, optimizer, Compute(META, "fp32", 1), 1.0, None)
    average = EMA(step.parameters, 0.9)
    for _ in range(2):
        stream = load_steps(photos, 1, [list(enumerate(photos.batches(1)))[:2]])
        terms, stepped = step.run(next(stream), 8, "a step")
        average.update()
    assert stepped
    assert {term.device.type for term in terms.values()} == {"meta"}


@pytest.mark.parametrize("fused", [None, False, True])
def test_only_an_optimizer_that_can_be_stopped_on_the_device_is_not_waited_for(
    prepare, fused, monkeypatch
):
    monkeypatch.setattr(Compute, "asynchronous", True)
    training = prepare()
    optimizer = torch.optim.AdamW(training.classifier.head.parameters(), fused=fused)
    with nullcontext() if fused else pytest.raises(AssertionError):
        TrainStep(training.classifier, CROSS_ENTROPY, optimizer, training.compute, 1.0, None)


class Allocations(TorchDispatchMode):
    """Counts the tensors that operations make anew, scalars left out, and their bytes."""

    def __init__(self):
        super().__init__()
        self.tensors = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage().data_ptr()
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if tensor.ndim and storage.data_ptr() not in given:
                    self.tensors += 1
                    self.bytes += storage.nbytes()
        return result


def test_a_step_allocates_no_more_than_peft_in_a_plain_loop_and_no_more_than_the_last(
    prepare, small_dir
):
    ours = prepare(batch_size=16, clip_norm=1.0)
    step = TrainStep(ours.classifier, CROSS_ENTROPY, ours.optimizer, ours.compute, 1.0, None)
    ours.classifier.train()
    images, targets = next(ours.photos.load([(0, torch.arange(16))], 1))

    backbone = load_directory(small_dir, text=False)
    tower = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), backbone.visual
    )
    head = torch.nn.Linear(backbone.embedding_dim, targets.shape[1])
    trained = [p for p in (*tower.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)

    def plain():
        torch.nn.functional.cross_entropy(head(tower(images)), targets).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def counted(action):
        action()  # the optimizer makes its state in the first
        counts = []
        for _ in range(2):
            with Allocations() as allocations:
                action()
            counts.append((allocations.tensors, allocations.bytes))
        assert counts[0] == counts[1]
        return counts[0]

    our_tensors, our_bytes = counted(lambda: step.run([(images, targets)], 16, "a step"))
    their_tensors, their_bytes = counted(plain)
    assert our_tensors <= their_tensors
    assert our_bytes <= their_bytes


def test_nothing_is_kept_for_the_backward_pass_below_the_first_part_that_is_trained(small_dir):
    def bytes_kept(layers, below_without_gradients):
        backbone = load_directory(small_dir, text=False)
        *below, last = range(len(backbone.visual.transformer.resblocks))
        where = {"targets": ["q", "v"], "layers": None if layers == "all" else [last]}
        LORA.attach(LoraConfig(rank=2, alpha=4.0, **where), backbone, seed=42)
        for block in below if below_without_gradients else ():
            module = backbone.visual.transformer.resblocks[block]
            module.forward = torch.no_grad()(module.forward)
        kept = 0

        def keep(tensor):
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            embed(backbone.visual, torch.randn(4, 3, 32, 32))
        return kept

    assert bytes_kept("last", False) == bytes_kept("last", True) > 0
    assert bytes_kept("all", False) > bytes_kept("all", True)
