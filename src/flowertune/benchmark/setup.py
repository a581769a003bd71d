"""Set up a training for timing its steps: in no run directory, without baselines."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import torch

from flowertune import seeding
from flowertune.config.schema import Config
from flowertune.errors import TrainingError
from flowertune.report.console.run import ConsoleReporter
from flowertune.training import setup as training_setup
from flowertune.training.batches import Batch, count_images, load_steps
from flowertune.training.setup import Setup
from flowertune.training.state import TrainState
from flowertune.training.step import nonfinite_message


@dataclass(frozen=True)
class BenchTraining:
    """A training before its first step. The setup has no test images; steps have `step_size`."""

    setup: Setup
    state: TrainState
    step_size: int

    def run_step(self, batches: Iterable[Batch]) -> None:
        """Run the loop's step, and update the average of the weights where there is one."""
        _, updated = self.state.step.run(batches, self.step_size, "the benchmark")
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
        for epoch in count(1):
            steps = self.state.step_indices(epoch)
            whole = [step for step in steps if count_images(step) == self.step_size]
            with closing(load_steps(self.state.loader, epoch, whole)) as stream:
                yield from stream


def prepare(config: Config, console: ConsoleReporter) -> BenchTraining:
    """Prepare a training like `train`, without test images and baselines, in no run directory."""
    setup = training_setup.prepare(config, console, test=False)
    pixels = training_setup.move_to_device(setup)
    width, classes = setup.backbone.embedding_dim, len(setup.cached.dataset.class_names)
    # random features, class vectors and linear probe for a head; no time depends on them
    generator = seeding.generator(0, "bench")
    features, vectors = (torch.randn(rows, width, generator=generator) for rows in (64, classes))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    bias, mean, std = torch.zeros(classes), torch.zeros(width), torch.ones(width)
    probe = [tensor.double() for tensor in (vectors, bias, mean, std)]
    classifier = training_setup.build_model(setup, features, vectors, probe)
    state = training_setup.build_train_state(setup, pixels, classifier, console.say)
    return BenchTraining(setup, state, count_images(state.step_indices(1)[0]))
