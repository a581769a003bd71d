"""Track runs with Weights & Biases, on its server or offline until `wandb sync`."""

import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from flowertune.errors import UsageError
from flowertune.runs.directory import Metrics, Run
from flowertune.tracking import metric_names
from flowertune.tracking.run_ids import run_id

# Seconds that wandb waits for its server at the start, and to send the remaining data at the end.
# Both also apply when the process exits.
TIMES = {"init_timeout": 30.0, "finish_timeout": 45.0, "finish_timeout_raises": True}


def check_login(mode: str | None) -> None:
    """Raise UsageError if wandb would ask for a login. `mode`: logger.mode."""
    import wandb

    settings = wandb.setup().settings
    credentials = settings.api_key or settings.identity_token_file or wandb.api.api_key
    if (mode or settings.mode) == "online" and not credentials:
        raise UsageError("logger=wandb: not logged in; run wandb login or set logger.mode=offline")


class Wandb:
    """Weights & Biases run; implements `tracker.Tracker`."""

    def __init__(self, settings: Any, run: Run, config: Mapping[str, Any]) -> None:
        import wandb

        wandb_id = run_id(run, "wandb", lambda: uuid.uuid4().hex[:16])
        for folder in run.path.glob(f"wandb/offline-run-*-{wandb_id}*"):
            shutil.rmtree(folder)  # a resumed run sends all lines again
        self._wandb = wandb
        mode = settings.mode or wandb.setup().settings.mode
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            mode=mode,
            dir=run.path,
            id=wandb_id,
            name=run.path.name,
            config=dict(config),
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # an earlier job of this sweep may still hang
            settings=wandb.Settings(silent=True, console="off", **TIMES),
        )
        online = mode == "online"
        self.location = str(self._run.url) if online else f"wandb sync {run.path}/wandb/offline-*"
        self._run.define_metric("*", step_metric="step")  # wandb's own step counts lines
        self._n_logged = self._run.starting_step

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        n_skipped, self._n_logged = self._n_logged, max(0, self._n_logged - len(lines))
        for line in lines[n_skipped:]:
            self._run.log({"step": line["step"], **metric_names.line_metrics(line)})

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._run.log({"results": self._wandb.Table(*metric_names.results_table(results))})
        self._run.summary.update(metric_names.result_metrics(results))

    def close(self, state: str) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)
