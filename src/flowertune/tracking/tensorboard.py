"""Track runs with TensorBoard, in the run directory."""

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from flowertune.config.logger import LoggerConfig
from flowertune.runs.directory import Metrics, Run
from flowertune.tracking import metric_names


class TensorBoard:
    """TensorBoard run; implements `tracker.Tracker`."""

    def __init__(self, settings: LoggerConfig, run: Run, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        if folder.exists():  # a resumed run sends all lines again
            shutil.rmtree(folder)
        self.location = f"tensorboard --logdir {run.path.parent}"
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        for line in lines:
            for name, value in metric_names.line_metrics(line).items():
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def log_results(self, results: Mapping[str, Any]) -> None:
        for name, value in metric_names.result_metrics(results).items():
            self._writer.add_scalar(name, value)
        self._writer.add_text("results", metric_names.markdown(results))

    def close(self, state: str) -> None:
        self._writer.close()
