from itertools import pairwise

import pytest
import torch
from torch import nn

from flowertune.config.optimizer import OptimizerConfig
from flowertune.training.optimizer import build_optimizer, schedule, set_learning_rates

CONFIG = OptimizerConfig(
    lr=2e-3, head_lr=3e-2, weight_decay=0.1, head_weight_decay=0.2, beta1=0.8, beta2=0.9, eps=1e-6
)


def parameters():
    return {
        "adapter": [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))],
        "head": [nn.Parameter(torch.ones(5, 3)), nn.Parameter(torch.tensor(1.0))],
    }


def test_vectors_and_scalars_are_not_decayed():
    trained = parameters()
    optimizer = build_optimizer(trained, CONFIG, torch.device("cpu"), recorded=False)
    for each in [p for group in trained.values() for p in group]:
        each.grad = torch.zeros_like(each)
    optimizer.step()
    matrix, vector = (p.detach() for p in trained["adapter"])
    assert torch.allclose(matrix, torch.full_like(matrix, 1 - 2e-3 * 0.1))
    assert torch.equal(vector, torch.ones(4))
    matrix, scalar = (p.detach() for p in trained["head"])
    assert torch.allclose(matrix, torch.full_like(matrix, 1 - 3e-2 * 0.2))
    assert scalar == 1.0


def test_adapter_and_head_have_their_own_peak_rates():
    optimizer = build_optimizer(parameters(), CONFIG, torch.device("cpu"), recorded=False)
    peaks = [(g["name"], g["peak_lr"], g["betas"], g["eps"]) for g in optimizer.param_groups]
    assert peaks == [(n, r, (0.8, 0.9), 1e-6) for n, r in
                     [("adapter", 2e-3)] * 2 + [("head", 3e-2)] * 2]  # fmt: skip
    assert set_learning_rates(optimizer, 0.5) == {"adapter": 1e-3, "head": 1.5e-2}
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3, 1.5e-2, 1.5e-2]
    assert set_learning_rates(optimizer, 1.0) == {"adapter": 2e-3, "head": 3e-2}


def test_without_an_adapter_only_the_head_has_groups():
    trained = {**parameters(), "adapter": []}
    optimizer = build_optimizer(trained, CONFIG, torch.device("cpu"), recorded=False)
    assert {group["name"] for group in optimizer.param_groups} == {"head"}


def test_every_parameter_is_in_exactly_one_group():
    trained = parameters()
    optimizer = build_optimizer(trained, CONFIG, torch.device("cpu"), recorded=False)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for group in trained.values() for p in group)


@pytest.mark.parametrize(("total", "warmup"), [(20, 5), (20, 0), (7, 6), (2, 1)])
def test_the_schedule_warms_up_to_the_peak_and_falls_to_the_final_fraction(total, warmup):
    shares = [schedule(step, total, warmup, 0.05) for step in range(total)]
    assert all(one < two for one, two in pairwise(shares[: warmup + 1]))
    assert shares[warmup] == 1.0
    assert all(0 < share <= 1 for share in shares)
    if total > warmup + 1:
        assert shares[warmup:] == sorted(shares[warmup:], reverse=True)
        assert shares[-1] == pytest.approx(0.05)


def test_a_schedule_of_only_warmup_steps_rises_evenly():
    shares = [schedule(step, 4, 4, 0.0) for step in range(4)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedule(0, 1, 0, 0.0) == 1.0  # a single step is not wasted
