import pytest

from flowertune.training.early_stopping import EarlyStopping

# top1, mean_per_class, loss
EPOCHS = [(0.5, 0.7, 1.2), (0.8, 0.6, 1.0), (0.6, 0.9, 0.4), (0.8, 0.9, 0.4)]


@pytest.mark.parametrize(
    ("monitor", "epoch", "value"), [("top1", 2, 0.8), ("mean_per_class", 3, 0.9), ("loss", 3, 0.4)]
)
def test_the_best_epoch_is_the_earliest_with_the_best_score(monitor, epoch, value, metrics):
    best = EarlyStopping(monitor, patience=None, min_delta=0.0)
    improved = [best.update(number, metrics(*each)) for number, each in enumerate(EPOCHS, start=1)]
    assert (best.epoch, best.value) == (epoch, value)
    assert max(number for number, better in enumerate(improved, start=1) if better) == epoch
    assert not best.should_stop


@pytest.mark.parametrize(("monitor", "sign"), [("top1", 1), ("loss", -1)])
def test_small_improvements_do_not_reset_the_patience(monitor, sign, metrics):
    best = EarlyStopping(monitor, patience=2, min_delta=0.1)
    stops = []
    for epoch, step in enumerate([0.0, 0.25, 0.3, 0.34, 0.5], start=1):
        value = 0.5 + sign * step
        best.update(epoch, metrics(value, value, value))
        stops.append(best.should_stop)
    assert stops == [False, False, False, True, False]
    assert best.epoch == 5
