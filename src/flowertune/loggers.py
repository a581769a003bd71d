"""Where a run's numbers may also go: TensorBoard, Weights & Biases, MLflow.

A training calls none of them itself: `tracking` does, and keeps what goes wrong here from it. Each
is an extra of the package, imported where it is chosen and not before.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from flowertune.config.logger import LoggerConfig, MlflowConfig, WandbConfig
from flowertune.errors import Refused
from flowertune.runs.directory import Metrics, Run
from flowertune.trackers.mlflow import Mlflow
from flowertune.trackers.tensorboard import TensorBoard
from flowertune.trackers.wandb import Wandb, check_login


class Tracker(Protocol):
    """One run at a tracker. What it does may raise anything, and take any time.

    `place`: where a person finds the run there. A run that was stopped and goes on gives its
    tracker all lines once more, and the tracker leaves out those that it has.
    """

    place: str

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        """Takes the next lines of metrics.jsonl."""

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Takes what results.json has."""

    def close(self, state: str) -> None:
        """Sends what is left; `state`: finished, failed or interrupted."""


_TRACKERS: dict[str, Callable[[Any, Run, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def check(settings: LoggerConfig) -> None:
    """Whether a run can be tracked so, as far as that shows beforehand.

    Raises:
        Refused: the package is not installed, wandb would ask who you are, or config.yaml would
            keep a password.
    """
    if settings.name == "none":
        return
    found = importlib.util.find_spec(settings.name)
    if found is None or found.origin is None:  # wandb's own folder of files is no package
        raise Refused(
            f"logger={settings.name}: is not installed; pip install 'flowertune[{settings.name}]'"
        )
    if isinstance(settings, WandbConfig):
        check_login(settings.mode)
    if isinstance(settings, MlflowConfig) and urlsplit(settings.uri or "").password:
        raise Refused(
            "logger.uri: holds a password, and config.yaml would keep it; give the address as "
            "MLFLOW_TRACKING_URI"
        )


def start(settings: LoggerConfig, run: Run, config: Mapping[str, Any]) -> Tracker:
    """The run at its tracker, new or found again, with its whole `config` as plain values."""
    return _TRACKERS[settings.name](settings, run, config)
