"""Configs of experiment trackers, which receive a run's metrics, config and results."""

from dataclasses import dataclass

from flowertune.config.fields import config_field, option


@dataclass
class LoggerConfig:
    """No tracker: only the run's metrics.jsonl and results.json. Base of the others."""

    name: str = option("none")


@dataclass
class TensorBoardConfig(LoggerConfig):
    """TensorBoard event files in the run directory."""

    name: str = option("tensorboard")


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases, with local files in the run directory."""

    name: str = option("wandb")
    project: str = config_field("flowertune", "Weights & Biases project")
    entity: str | None = config_field(None, "owner of the project; null: your default entity")
    mode: str | None = config_field(
        None,
        "offline: upload later with wandb sync; null: WANDB_MODE, or online if unset",
        choices=("online", "offline"),
    )
    group: str | None = config_field(None, "group of the run; null: the name of its sweep")


@dataclass
class MlflowConfig(LoggerConfig):
    """MLflow, on a server or in a local file."""

    name: str = option("mlflow")
    uri: str | None = config_field(None, "server; null: MLFLOW_TRACKING_URI, or run.root/mlflow.db")
    experiment: str = config_field("flowertune", "MLflow experiment")
    group: str | None = config_field(None, "group of the run; null: the name of its sweep")
