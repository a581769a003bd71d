"""Track runs with Weights & Biases, on its server or offline until `wandb sync`."""

import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from flowertune.errors import UsageError
from flowertune.runs.directory import Metrics, Run
from flowertune.tracking import metric_names
from flowertune.tracking.run_ids import run_id

# Without an answer wandb waits for so many seconds to begin, and for what is left at the end; both
# also hold for what it does when the process ends.
TIMES = {"init_timeout": 30.0, "finish_timeout": 45.0, "finish_timeout_raises": True}


def check_login(mode: str | None) -> None:
    """Raise UsageError if wandb would ask for a login. `mode`: as logger.mode."""
    import wandb

    settings = wandb.setup().settings
    credentials = settings.api_key or settings.identity_token_file or wandb.api.api_key
    if (mode or settings.mode) == "online" and not credentials:
        raise UsageError("logger=wandb: nobody is logged in; wandb login, or logger.mode=offline")


class Wandb:
    """Weights & Biases run; implements `tracker.Tracker`."""

    def __init__(self, settings: Any, run: Run, config: Mapping[str, Any]) -> None:
        import wandb

        wandb_id = run_id(run, "wandb", lambda: uuid.uuid4().hex[:16])
        for folder in run.path.glob(f"wandb/offline-run-*-{wandb_id}*"):
            shutil.rmtree(folder)  # of a run that goes on: all lines come again
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
            reinit="create_new",  # a job before in this sweep may hang at its end
            settings=wandb.Settings(silent=True, console="off", **TIMES),
        )
        online = mode == "online"
        self.location = str(self._run.url) if online else f"wandb sync {run.path}/wandb/offline-*"
        self._run.define_metric("*", step_metric="step")  # its own steps count lines
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
