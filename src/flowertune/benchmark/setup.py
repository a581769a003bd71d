"""Set up a training for timing its steps: in no run directory, without baselines."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import torch

from flowertune import seeding
from flowertune.baselines.linear_probe import LinearProbe
from flowertune.config.schema import Config
from flowertune.data.loader import TrainLoader
from flowertune.errors import TrainingError
from flowertune.models.classifier import Classifier
from flowertune.report.console.run import ConsoleReporter
from flowertune.training import setup as training_setup
from flowertune.training.batches import Batch, count_images, load_steps, step_indices
from flowertune.training.nonfinite import nonfinite_message
from flowertune.training.setup import Setup
from flowertune.training.state import TrainState


@dataclass(frozen=True)
class BenchTraining:
    """A training before its first step. The setup has no test images; steps have `step_size`."""

    setup: Setup
    loader: TrainLoader
    state: TrainState
    step_size: int

    @property
    def classifier(self) -> Classifier:
        """The model that the steps train."""
        return self.state.step.classifier

    def run_step(self, batches: Iterable[Batch], n_images: int) -> None:
        """Run the loop's step, and update the average of the weights where there is one."""
        _, updated = self.state.step.run(batches, n_images, "the benchmark")
        if updated and self.state.ema is not None:
            self.state.ema.update()

    def check(self) -> None:
        """Raise TrainingError where a step was not finite that the host queued without looking.

        A step that the host waits for raises it by itself.
        """
        if self.state.step.found_inf.item():
            what = "loss or gradient of the benchmark"
            raise TrainingError(nonfinite_message(what, self.setup.compute.precision))

    def steps(self) -> Generator[Iterator[Batch], None, None]:
        """Yield the batches of one whole step after the other, an epoch's in one stream.

        Smaller steps, at an epoch's end, are left out. Close the generator after the last one.
        """
        accumulation = self.setup.config.trainer.accumulation
        for epoch in count(1):
            steps = step_indices(self.loader, epoch, accumulation)
            whole = [step for step in steps if count_images(step) == self.step_size]
            with closing(load_steps(self.loader, epoch, whole)) as stream:
                yield from stream


def prepare(config: Config, console: ConsoleReporter) -> BenchTraining:
    """Prepare a training like `train`, without test images and baselines, in no run directory."""
    setup = training_setup.prepare(config, console, test=False)
    images = training_setup.move_to_device(setup)
    width, classes = setup.backbone.embedding_dim, len(setup.cached.dataset.class_names)
    # random features, class vectors and probe for a head; no time depends on them
    generator = seeding.generator(0, "bench")
    features, vectors = (torch.randn(rows, width, generator=generator) for rows in (64, classes))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    probe = LinearProbe(
        weight=vectors.double(),
        bias=torch.zeros(classes).double(),
        mean=torch.zeros(width).double(),
        std=torch.ones(width).double(),
        weight_decay=0.0,
        failure=None,
    )
    classifier = training_setup.build_model(setup, features, vectors, probe)
    loader, step = training_setup.build_trainer(setup, images, classifier, console.say)
    state = TrainState.new(step, loader, config.trainer)
    step_size = count_images(step_indices(loader, 1, config.trainer.accumulation)[0])
    return BenchTraining(setup, loader, state, step_size)
