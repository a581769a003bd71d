"""Track runs with MLflow, on a server or in a database next to the runs."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from flowertune.config import saved
from flowertune.files import lock
from flowertune.runs.directory import LOCKS, Metrics, Run
from flowertune.tracking import metric_names
from flowertune.tracking.run_ids import run_id

METRICS, PARAMS = 1000, 100  # most per request, the limits of MLflow's servers
# Retries of the first requests, unless set in the environment. MLflow's default of 7 takes four
# minutes: right for a server that restarts during a run, too long to notice that there is none.
FIRST_RETRIES = 2


class Mlflow:
    """MLflow run; implements `tracker.Tracker`."""

    def __init__(self, settings: Any, run: Run, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it logs its migrations
        root = run.path.parent.absolute()
        uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
        with lock(root / LOCKS / "mlflow.lock", lambda: None):  # two jobs may start at once
            self._client = MlflowClient(uri or f"sqlite:///{root}/mlflow.db")
            artifacts = None if uri else (root / "mlartifacts").as_uri()
            with ExitStack() as stack:
                if not RETRIES.is_set():
                    stack.callback(RETRIES.unset)
                    RETRIES.set(FIRST_RETRIES)
                experiment = self._experiment(settings.experiment, artifacts)
        self.location = f"run {run.path.name} of experiment {settings.experiment}" + (
            "" if uri else f"; mlflow ui --backend-store-uri sqlite:///{root}/mlflow.db"
        )

        def create_run() -> str:
            tags = {"sweep": settings.group} if settings.group else {}
            created = self._client.create_run(experiment, run_name=run.path.name, tags=tags)
            params = [Param(name, str(value)) for name, value in saved.flatten(config)]
            for start in range(0, len(params), PARAMS):
                self._client.log_batch(created.info.run_id, params=params[start : start + PARAMS])
            return str(created.info.run_id)

        # the address of a server may contain a password
        uri_hash = hashlib.sha256((uri or "").encode()).hexdigest()[:16]
        self._id = run_id(run, f"mlflow {uri_hash}", create_run)
        self._client.update_run(self._id, status="RUNNING")
        self._last_steps: dict[str, int] = {}  # last logged step per metric

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:  # another process created it meanwhile
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(name, value, now, line["step"])
            for line in lines
            for name, value in metric_names.line_metrics(line).items()
            if line["step"] > self._last_step(name)
        ]
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + METRICS])

    def _last_step(self, name: str) -> int:
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]

    def log_results(self, results: Mapping[str, Any]) -> None:
        for name, value in metric_names.result_metrics(results).items():
            self._client.log_metric(self._id, name, value)
        self._client.set_tag(self._id, "mlflow.note.content", metric_names.markdown(results))

    def close(self, state: str) -> None:
        states = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        self._client.set_terminated(self._id, states[state])
