"""`flowertune train`: train a model and write a run directory."""

import signal
from dataclasses import asdict, replace
from pathlib import Path

from flowertune.config.data import OwnImagesConfig
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import bad_file_lines
from flowertune.data.cache_dir import cache_root
from flowertune.data.factory import list_images
from flowertune.errors import EXIT_DONE, with_type
from flowertune.models.factory import load_backbone
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs import log, provenance
from flowertune.runs.finished import read_finished_run
from flowertune.runs.resume import find_run, open_run
from flowertune.runtime import memory
from flowertune.signals import StopRequest, install_handlers, on_signals
from flowertune.tracking import tracker as trackers
from flowertune.tracking.tracker import Tracking
from flowertune.training import disk_space, report_data
from flowertune.training.pipeline import adapt
from flowertune.training.setup import prepare


def execute(config: Config) -> int:
    """Train one model, or report a finished run of the same config.

    Creates no run directory if it raises UsageError; other errors are recorded in the run's status.
    """
    with install_handlers() as stop:
        return _train(config, stop)


def _train(config: Config, stop: StopRequest) -> int:
    console = ConsoleReporter(mode=config.run.console)
    assert config.run.name is not None
    resume = config.run.resume
    # saved configs must not restart a run or fix the console mode
    plain_config = asdict(replace(config, run=replace(config.run, resume="auto", console="auto")))
    run, finished = find_run(Path(config.run.root), config.run.name, plain_config, resume)
    if finished:
        previous_run = read_finished_run(run.path)
        results = previous_run.results
        run.remove_checkpoints()  # left over if it was killed just after finishing
        if isinstance(config.data, OwnImagesConfig):  # other sources never change
            with console.progress():
                dataset = list_images(config.data, cache_root(), console.advance)
                provenance.check_images(previous_run, dataset, console.advance)
        if config.backbone.path is not None:  # other weights never change
            backbone = load_backbone(config.backbone, config.seed, config.data.resize)
            provenance.check_backbone(previous_run, backbone)
        console.say(f"{run.path}: already finished; showing its results")
        console.results(results, str(run.path))
        return EXIT_DONE

    # check everything before the run directory is created, quick checks first
    trackers.check(config.logger)
    setup = prepare(config, console)
    backbone, cached = setup.backbone, setup.cached
    disk_space.check_disk_space(config, backbone, cached)
    for line in bad_file_lines(setup.listed, cached.bad):
        console.warn(f"skipped: {line}")
    for note in cached.dataset.notes:
        console.say(note)
    console.start(
        str(run.path),
        method=config.method,
        backbone=backbone.name,
        tag=backbone.tag,
        protocol=cached.dataset.protocol,
        seed=config.seed,
    )

    out_of_memory = memory.oom_message("train", config.trainer, setup.compute.device_name)
    run_environment = provenance.describe(setup.compute, backbone, cached)
    with (
        open_run(run, plain_config, run_environment, resume) as previous,
        log.log_to_file(run),
        Tracking(config.logger, run, plain_config, console.say) as tracker,
    ):
        with log.log_failures(run, out_of_memory):
            if previous is not None:
                for note in previous.notes:
                    console.warn(note)
                outcome = "starting over" if previous.checkpoint is None else "continuing"
                console.say(f"{run.path} {previous.description}; {outcome}")
            checkpoint = None if previous is None else previous.checkpoint
            results, report_inputs = adapt(
                setup, run, console, stop, checkpoint, tracker.log_metrics
            )
            with on_signals(signal.SIG_IGN):  # too late to interrupt
                run.write_results(results)
        tracker.log_results(results)
        console.results(results, str(run.path))
    try:  # a failure here does not affect the results
        report_data.write_report_data(run, report_inputs)
        if config.run.report:
            from flowertune.report.html import run as run_page

            for line in run_page.write(run.path):
                console.say(line)
    except Exception as error:
        console.warn(f"{run.path}: the report could not be written ({with_type(error)})")
    return EXIT_DONE
