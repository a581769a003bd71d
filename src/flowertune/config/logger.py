"""Configs of the experiment trackers that also receive a run's metrics."""

from dataclasses import dataclass

from flowertune.config.fields import config_field, option


@dataclass
class LoggerConfig:
    """No tracker, only the run's own metrics.jsonl and results.json; base of the others."""

    name: str = option("none")


@dataclass
class TensorBoardConfig(LoggerConfig):
    """TensorBoard event files in the run directory."""

    name: str = option("tensorboard")


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases; its files lie in the run directory, too."""

    name: str = option("wandb")
    project: str = config_field("flowertune", "of Weights & Biases")
    entity: str | None = config_field(None, "whose project; null: your own")
    mode: str | None = config_field(
        None,
        "null: as WANDB_MODE has it, else online; offline is for wandb sync",
        choices=("online", "offline"),
    )
    group: str | None = config_field(None, "what runs are grouped by; null: their sweep")


@dataclass
class MlflowConfig(LoggerConfig):
    """MLflow, at a server or in a file."""

    name: str = option("mlflow")
    uri: str | None = config_field(
        None, "null: MLFLOW_TRACKING_URI, else the file mlflow.db in run.root"
    )
    experiment: str = config_field("flowertune", "of MLflow")
    group: str | None = config_field(None, "what runs are grouped by; null: their sweep")
