"""`flowertune train`: train a model and write a run directory."""

import signal
from dataclasses import asdict, replace
from pathlib import Path

from flowertune.baselines import prompts
from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import bad_file_lines, cache_dataset
from flowertune.data.cache_dir import cache_root
from flowertune.data.factory import list_images
from flowertune.errors import EXIT_DONE, with_type
from flowertune.losses.factory import check_loss
from flowertune.models.factory import check_adapter, load_backbone
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs import directory, environment, log
from flowertune.runs.resume import check_backbone, check_images, find_run, open_run
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.runtime.device import choose_compute
from flowertune.signals import StopRequest, install_handlers, on_signals
from flowertune.tracking import tracker as trackers
from flowertune.tracking.tracker import track_run
from flowertune.training import disk_space, report_data
from flowertune.training.pipeline import adapt


def execute(config: Config) -> int:
    """Train one model and return the exit code.

    Raises:
        UsageError: before anything was started; no run directory is left behind.
        TrainingError, Interrupted: afterwards; the run directory says so too.
    """
    with install_handlers() as stop:
        return _execute(config, stop)


def _execute(config: Config, stop: StopRequest) -> int:
    console = ConsoleReporter(mode=config.run.console)
    assert config.run.name is not None
    cache, resume = cache_root(), config.run.resume
    # what is written down is for the next time, and restarts nothing then
    plain_config = asdict(replace(config, run=replace(config.run, resume="auto", console="auto")))
    run, finished = find_run(Path(config.run.root), config.run.name, plain_config, resume)
    if finished:
        results = run.results()
        run.remove_checkpoints()  # where it was killed just after it had finished
        if config.data.name == "folder":  # the other sources give the same photos always
            with console.progress():
                dataset = list_images(config.data, cache, console.advance)
                check_images(run, dataset, console.advance)
        if config.backbone.path is not None:  # the other weights stay what they are
            facts = load_backbone(config.backbone, config.seed).facts()
            check_backbone(run, facts)
        console.say(f"{run.path} is finished already; this is its result")
        console.results(results, str(run.path))
        return EXIT_DONE

    # what can be refused comes before the run directory, and what is quick to refuse comes first
    trackers.check(config.logger)
    compute = choose_compute(config.trainer.device, config.trainer.precision)
    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
    with console.progress():
        backbone = load_backbone(config.backbone, config.seed)
        check_adapter(config.model, backbone)
        dataset = list_images(config.data, cache, console.advance)
        class_prompts = prompts.render(
            config.data.templates, dataset.class_names, dataset.descriptions
        )
        cached = cache_dataset(
            dataset,
            backbone.preprocessing,
            train_form=reads_train_pixels(config.augmentation),
            folder=cache,
            bad_files=config.data.bad_files,
            progress=console.advance,
        )
    check_loss(config.loss, cached.dataset.splits["train"].labels)
    disk_space.check_disk_space(config, backbone, cached)
    for line in bad_file_lines(dataset, cached.bad):
        console.warn(f"left out: {line}")
    console.start(
        str(run.path),
        method=config.method,
        backbone=backbone.name,
        tag=backbone.tag,
        protocol=cached.dataset.protocol,
        seed=config.seed,
    )

    out_of_memory = log.OUT_OF_MEMORY.format(
        device=compute.device_name,
        batch_size=config.trainer.batch_size,
        accumulation=config.trainer.accumulation,
    )
    run_environment = environment.describe(compute, backbone, cached)
    opened = open_run(run, plain_config, run_environment, resume)
    tracking = track_run(config.logger, run, plain_config, console.say)
    with opened as previous, log.log_to_file(run), tracking as tracker:
        with log.log_failures(run, out_of_memory):
            if previous is not None:
                for note in previous.notes:
                    console.warn(note)
                outcome = "it is started over" if previous.checkpoint is None else "it goes on"
                console.say(f"{run.path} {previous.description}; {outcome}")
            checkpoint = None if previous is None else previous.checkpoint
            results, report_inputs = adapt(
                config, run, compute, backbone, cached, class_prompts, cache, console, stop,
                checkpoint, tracker.log_metrics,
            )  # fmt: skip
            with on_signals(signal.SIG_IGN):  # it is finished, whatever comes now
                run.write_results(results)
        tracker.log_results(results)
        console.results(results, str(run.path))
    _report(run, report_inputs, config.run.report, console)
    return EXIT_DONE


def _report(
    run: directory.Run, inputs: report_data.ReportInputs, page: bool, console: ConsoleReporter
) -> None:
    """Write the report's data and the page; a failure here leaves the results in place."""
    try:
        report_data.write_report_data(run, inputs)
        if page:
            from flowertune.report.html import run as run_page

            for line in run_page.write(run.path):
                console.say(line)
    except Exception as error:
        console.warn(f"{run.path}: its report could not be made ({with_type(error)})")
