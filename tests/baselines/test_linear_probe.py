"""The linear probe against the loss that it claims to minimize, written out in full."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from flowertune.baselines import linear_probe, solvers
from flowertune.baselines.linear_probe import WEIGHT_DECAYS, LinearProbe, ProbeInputs, Solve
from flowertune.baselines.solvers import adamw, lbfgs, ridge


def task(n: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping clusters, with features of very different means and scales."""
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = 0.7 * centers[labels] + torch.randn(n, width, generator=draws)
    return features * torch.logspace(-3, 2, width) + torch.linspace(-5, 5, width), labels


def fit_linear_probe(
    features: Tensor,
    labels: Tensor,
    val: Tensor | None,
    val_labels: Tensor | None,
    classes: int,
    weight_decay: float | None,
    solve: Solve,
) -> LinearProbe:
    splits = {"train": (features, labels), "val": (val, val_labels)}
    features_of, labels_of = ({name: pair[i] for name, pair in splits.items()} for i in (0, 1))
    inputs = ProbeInputs(features_of, labels_of, classes, None, 0)
    return linear_probe.fit_linear_probe(inputs, weight_decay, solve)


def fit(weight_decay: float | None = None, solve: Solve = lbfgs) -> LinearProbe:
    train, val = task(120, 12, 5, seed=1), task(60, 12, 5, seed=2)
    return fit_linear_probe(*train, *val, 5, weight_decay, solve)


@pytest.mark.parametrize("weight_decay", [1.0, 1e-2, 1e-4])
def test_the_gradient_of_the_written_out_loss_vanishes(weight_decay: float) -> None:
    features, labels = task(120, 12, 5, seed=1)
    probe = fit(weight_decay)
    standard = (features.double() - probe.mean) / probe.std
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    loss = F.cross_entropy(standard @ weight.T + bias, labels)
    loss = loss + weight_decay / 2 * sum(entry**2 for entry in weight.flatten())
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(gradient.abs().max().item() for gradient in gradients) < 1.1e-5
    assert probe.weight.abs().max() > 0.05


def test_features_are_standardized_on_train() -> None:
    features, labels = task(120, 12, 5, seed=1)
    val, val_labels = task(60, 12, 5, seed=2)
    shift, scale = torch.linspace(-3, 3, 12), torch.logspace(2, -2, 12)
    plain = fit_linear_probe(features, labels, val, val_labels, 5, 1e-2, lbfgs)
    moved = fit_linear_probe(features * scale + shift, labels, val, val_labels, 5, 1e-2, lbfgs)
    torch.testing.assert_close(
        plain.logits(val), moved.logits(val * scale + shift), atol=2e-3, rtol=0
    )


def test_validation_chooses_the_weight_decay_top1_first_and_then_the_loss() -> None:
    val, val_labels = task(60, 12, 5, seed=2)
    scores = {}
    for weight_decay in WEIGHT_DECAYS:
        logits = fit(weight_decay).logits(val)
        top1 = (logits.argmax(1) == val_labels).float().mean().item()
        scores[weight_decay] = (top1, -F.cross_entropy(logits, val_labels).item())
    best = max(scores, key=lambda weight_decay: scores[weight_decay])
    assert fit().weight_decay == best

    # Everything is right at every weight decay: the lower loss decides.
    easy, easy_labels = torch.eye(4).repeat(5, 1) * 9, torch.arange(4).repeat(5)
    probe = fit_linear_probe(easy, easy_labels, easy, easy_labels, 4, None, lbfgs)
    assert probe.weight_decay == min(WEIGHT_DECAYS)


def test_a_given_weight_decay_needs_no_val() -> None:
    train, val = task(120, 12, 5, seed=1), task(60, 12, 5, seed=2)
    given, chosen = fit_linear_probe(*train, None, None, 5, 1e-2, lbfgs), fit(1e-2)
    assert given.weight_decay == 1e-2
    assert torch.equal(given.logits(val[0]), chosen.logits(val[0]))


def test_a_feature_that_never_varies_is_harmless() -> None:
    features, labels = task(120, 12, 5, seed=1)
    constant = torch.full((120, 1), 0.1)
    probe = fit_linear_probe(
        torch.cat([features, constant], 1), labels, torch.cat([features, constant], 1), labels, 5,
        1e-2, lbfgs,
    )  # fmt: skip
    reference = fit_linear_probe(features, labels, features, labels, 5, 1e-2, lbfgs)
    logits = probe.logits(torch.cat([features, constant + 0.01], 1))
    torch.testing.assert_close(logits, reference.logits(features), atol=1e-2, rtol=0)


def test_twice_the_same_bits_and_no_trace_in_the_process() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = fit(), fit()
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_adamw_comes_to_where_lbfgs_does_and_only_its_seed_moves_it() -> None:
    """Without weight decay both minimize the same loss; wrong labels give it a minimum."""
    train, val = task(1000, 12, 5, seed=1), task(60, 12, 5, seed=2)
    train[1][::7] = 0

    def probabilities(solve: Solve) -> Tensor:
        return fit_linear_probe(*train, *val, 5, 0.0, solve).logits(val[0]).softmax(1)

    solution = probabilities(lbfgs)
    one, again, other = (probabilities(adamw(100, 0.05, 100, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, solution, atol=0.02, rtol=0)
    assert (probabilities(adamw(1, 0.05, 100, 1)) - solution).abs().max() > 0.05


def test_adamw_shrinks_the_weights_and_not_the_bias() -> None:
    """Decoupled decay so strong that every step takes the weight to nothing."""
    probe = fit(10.0, adamw(50, 0.1, 120, 1))
    assert probe.weight.abs().max() < 0.15
    loose = fit(0.0, adamw(50, 0.1, 120, 1))
    assert loose.weight.abs().max() > 1


@pytest.mark.parametrize("weight_decay", [1.0, 1e-3])
def test_ridge_is_the_augmented_least_squares_problem(weight_decay: float) -> None:
    """Rows sqrt(N * decay) * identity below the features give the penalty to numpy's lstsq."""
    features, labels = task(120, 12, 5, seed=1)
    probe = fit(weight_decay, ridge)
    standard = ((features.double() - probe.mean) / probe.std).numpy()
    penalty = np.hstack([(120 * weight_decay) ** 0.5 * np.eye(12), np.zeros((12, 1))])
    design = np.vstack([np.hstack([standard, np.ones((120, 1))]), penalty])
    targets = np.vstack([np.eye(5)[labels.numpy()], np.zeros((12, 5))])
    solution = np.linalg.lstsq(design, targets, rcond=None)[0]
    np.testing.assert_allclose(probe.weight.numpy(), solution[:-1].T, atol=1e-9)
    np.testing.assert_allclose(probe.bias.numpy(), solution[-1], atol=1e-9)


def test_a_search_that_was_cut_short_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(solvers, "MAX_ITERATIONS", 2)
    with caplog.at_level(logging.WARNING):
        fit(1e-3)
    assert "did not converge" in caplog.text


@pytest.mark.slow
def test_real_photos_give_the_known_accuracy(shared_folder: Callable[[str], Path]) -> None:
    """Flowers-17 val, DeiT-Tiny features: 92.65 by an L-BFGS probe that was written apart."""
    weights, photos = shared_folder("weights/deit-tiny-imagenet"), shared_folder("data/flowers17")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{weights}")
    model.eval()

    def split(name: str) -> tuple[Tensor, Tensor]:
        folders = sorted(path for path in (photos / name).iterdir() if path.is_dir())
        files = [
            (path, i) for i, folder in enumerate(folders) for path in sorted(folder.glob("*.jpg"))
        ]
        features = []
        with torch.inference_mode():
            for start in range(0, len(files), 34):
                images = [
                    transform(Image.open(path).convert("RGB"))
                    for path, _ in files[start : start + 34]
                ]
                features.append(model.encode_image(torch.stack(images)))
        return torch.cat(features), torch.tensor([label for _, label in files])

    val_features, val_labels = split("val")
    probe = fit_linear_probe(*split("train"), val_features, val_labels, 17, None, lbfgs)
    hits = (probe.logits(val_features).argmax(1) == val_labels).sum().item()
    assert hits == pytest.approx(0.9265 * 340, abs=2)
