"""The typed schema of `logger`: where a run's numbers also go. See config.py."""

from dataclasses import dataclass

from flowertune.config.fields import key, option


@dataclass
class LoggerConfig:
    """Nothing beside the run's own metrics.jsonl and results.json; what the others begin with."""

    name: str = option("none")


@dataclass
class TensorBoardConfig(LoggerConfig):
    """Event files in the run directory."""

    name: str = option("tensorboard")


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases; its files lie in the run directory, too."""

    name: str = option("wandb")
    project: str = key("flowertune", "of Weights & Biases")
    entity: str | None = key(None, "whose project; null: your own")
    mode: str | None = key(
        None,
        "null: as WANDB_MODE has it, else online; offline is for wandb sync",
        choices=("online", "offline"),
    )
    group: str | None = key(None, "what runs are grouped by; null: their sweep")


@dataclass
class MlflowConfig(LoggerConfig):
    """MLflow, at a server or in a file."""

    name: str = option("mlflow")
    uri: str | None = key(None, "null: MLFLOW_TRACKING_URI, else the file mlflow.db in run.root")
    experiment: str = key("flowertune", "of MLflow")
    group: str | None = key(None, "what runs are grouped by; null: their sweep")
