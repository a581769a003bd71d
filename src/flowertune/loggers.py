"""Where a run's numbers may also go: TensorBoard, Weights & Biases, MLflow.

A training calls none of them itself: `tracking` does, and keeps what goes wrong here from it. Each
is an extra of the package, imported where it is chosen and not before.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from filelock import FileLock

from flowertune import config_file, files, logged_numbers
from flowertune.errors import Refused
from flowertune.logger_config import LoggerConfig, MlflowConfig, WandbConfig
from flowertune.runs import BESIDE, Metrics, Run

MLFLOW_METRICS, MLFLOW_PARAMS = 1000, 100  # of one request, at most, as its servers have it
# MLflow's own number, 7, takes four minutes: good for a server that is started anew in the middle,
# too long to hear that there is none.
MLFLOW_FIRST_RETRIES = 2
# Without an answer wandb waits for so many seconds to begin, and for what is left at the end; both
# also hold for what it does when the process ends.
WANDB_TIMES = {"init_timeout": 30.0, "finish_timeout": 45.0, "finish_timeout_raises": True}


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
        _check_login(settings.mode)
    if isinstance(settings, MlflowConfig) and urlsplit(settings.uri or "").password:
        raise Refused(
            "logger.uri: holds a password, and config.yaml would keep it; give the address as "
            "MLFLOW_TRACKING_URI"
        )


def _check_login(mode: str | None) -> None:
    import wandb

    found = wandb.setup().settings
    known = found.api_key or found.identity_token_file or wandb.api.api_key
    if (mode or found.mode) == "online" and not known:
        raise Refused("logger=wandb: nobody is logged in; wandb login, or logger.mode=offline")


def start(settings: LoggerConfig, run: Run, config: Mapping[str, Any]) -> Tracker:
    """The run at its tracker, new or found again, with its whole `config` as plain values."""
    return _TRACKERS[settings.name](settings, run, config)


class _TensorBoard:
    def __init__(self, settings: LoggerConfig, run: Run, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        if folder.exists():  # of a run that goes on: all lines come again
            shutil.rmtree(folder)
        self.place = f"tensorboard --logdir {run.path.parent}"
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        for line in lines:
            for name, value in logged_numbers.of_line(line).items():
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def log_results(self, results: Mapping[str, Any]) -> None:
        for name, value in logged_numbers.of_results(results).items():
            self._writer.add_scalar(name, value)
        self._writer.add_text("results", logged_numbers.markdown(results))

    def close(self, state: str) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, settings: Any, run: Run, config: Mapping[str, Any]) -> None:
        import wandb

        own = _remembered(run, "wandb", lambda: uuid.uuid4().hex[:16])
        for folder in run.path.glob(f"wandb/offline-run-*-{own}*"):
            shutil.rmtree(folder)  # of a run that goes on: all lines come again
        self._wandb = wandb
        mode = settings.mode or wandb.setup().settings.mode
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            mode=mode,
            dir=run.path,
            id=own,
            name=run.path.name,
            config=dict(config),
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # a job before in this sweep may hang at its end
            settings=wandb.Settings(silent=True, console="off", **WANDB_TIMES),
        )
        online = mode == "online"
        self.place = str(self._run.url) if online else f"wandb sync {run.path}/wandb/offline-*"
        self._run.define_metric("*", step_metric="step")  # its own steps count lines
        self._has = self._run.starting_step

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        left_out, self._has = self._has, max(0, self._has - len(lines))
        for line in lines[left_out:]:
            self._run.log({"step": line["step"], **logged_numbers.of_line(line)})

    def log_results(self, results: Mapping[str, Any]) -> None:
        data = [list(row) for row in logged_numbers.rows(results)]
        self._run.log({"results": self._wandb.Table(list(logged_numbers.COLUMNS), data)})
        self._run.summary.update(logged_numbers.of_results(results))

    def close(self, state: str) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)


class _Mlflow:
    def __init__(self, settings: Any, run: Run, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # how it makes its tables
        root = run.path.parent.absolute()
        uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
        with FileLock(root / BESIDE / "mlflow.lock"):  # two jobs may be the first
            self._client = MlflowClient(uri or f"sqlite:///{root}/mlflow.db")
            artifacts = None if uri else (root / "mlartifacts").as_uri()
            with _retrying(MLFLOW_FIRST_RETRIES):
                experiment = self._experiment(settings.experiment, artifacts)
        self.place = f"run {run.path.name} of experiment {settings.experiment}" + (
            "" if uri else f"; mlflow ui --backend-store-uri sqlite:///{root}/mlflow.db"
        )

        def new() -> str:
            tags = {"sweep": settings.group} if settings.group else {}
            made = self._client.create_run(experiment, run_name=run.path.name, tags=tags)
            params = [Param(name, str(value)) for name, value in config_file.flat(config)]
            for at in range(0, len(params), MLFLOW_PARAMS):
                self._client.log_batch(made.info.run_id, params=params[at : at + MLFLOW_PARAMS])
            return str(made.info.run_id)

        # a server's address may hold a password
        where = hashlib.sha256((uri or "").encode()).hexdigest()[:16]
        self._id = _remembered(run, f"mlflow {where}", new)
        self._client.update_run(self._id, status="RUNNING")
        self._has: dict[str, int] = {}  # the highest step that it has of each metric

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:  # somebody else was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(name, value, now, line["step"])
            for line in lines
            for name, value in logged_numbers.of_line(line).items()
            if line["step"] > self._highest(name)
        ]
        for at in range(0, len(metrics), MLFLOW_METRICS):
            self._client.log_batch(self._id, metrics=metrics[at : at + MLFLOW_METRICS])

    def _highest(self, name: str) -> int:
        if name not in self._has:
            known = self._client.get_metric_history(self._id, name)
            self._has[name] = max((metric.step for metric in known), default=-1)
        return self._has[name]

    def log_results(self, results: Mapping[str, Any]) -> None:
        for name, value in logged_numbers.of_results(results).items():
            self._client.log_metric(self._id, name, value)
        self._client.set_tag(self._id, "mlflow.note.content", logged_numbers.markdown(results))

    def close(self, state: str) -> None:
        states = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        self._client.set_terminated(self._id, states[state])


@contextmanager
def _retrying(times: int) -> Iterator[None]:
    """How often MLflow asks again, unless the environment says so."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

    if RETRIES.is_set():
        yield
        return
    RETRIES.set(times)
    try:
        yield
    finally:
        RETRIES.unset()


_TRACKERS: dict[str, Callable[[Any, Run, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}


def _remembered(run: Run, tracker: str, new: Callable[[], str]) -> str:
    """By what id a tracker knows the run; a new one is kept beside the run's other files."""
    path = run.path / "trackers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if tracker not in known:
        known[tracker] = new()
        files.write_json(path, known)
    return str(known[tracker])
