"""Compose a config from command-line arguments and run it as a job, sweep or reproduction."""

import logging
from collections.abc import Sequence
from typing import Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode

from flowertune.config import overrides
from flowertune.config.compose import (
    open_composer,
    parse_arguments,
    print_config,
    show_info,
    to_config,
)
from flowertune.config.messages import translate_composition_errors, translate_errors
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.sweeps.launch import Execute, plan_sweep, run_sweep
from flowertune.sweeps.reproduce import check_run, plan_reproduction


def run(
    arguments: Sequence[str],
    execute: Execute,
    target: Literal["job", "sweep", "reproduction"] = "sweep",
) -> int:
    """Compose the config, or each config of a sweep, and call `execute` with it.

    -m or hydra.mode=MULTIRUN in a YAML file starts a sweep; `target` "job" refuses it, and a
    "reproduction" has its own jobs. All configs are checked before the first job starts. Returns
    the job's exit code; for several jobs 0 if all succeeded, 2 if all were refused, otherwise 1.
    """
    options = parse_arguments(arguments)
    if options.experimental_rerun:
        raise UsageError("--experimental-rerun: not supported; --config-path RUN runs a run again")
    if (options.package or options.resolve) and not options.cfg:
        raise UsageError("--package, --resolve: only allowed with --cfg")
    with open_composer(options) as composer:
        name = options.config_name or "config"
        options.overrides = overrides.quote_plain(options.overrides, options.multirun)
        task_overrides = options.overrides
        if options.info or options.shell_completion or options.hydra_help:
            show_info(composer, name, options)
            return EXIT_DONE
        with translate_composition_errors(task_overrides):
            parsed = overrides.check(task_overrides, composer.config_loader)
            if options.cfg:
                overrides.check_one_job(parsed)
                print_config(composer, name, options)
                return EXIT_DONE
            node = composer.compose_config(
                name, task_overrides, RunMode.MULTIRUN, validate_sweep_overrides=False
            )
            is_sweep = options.multirun or node.hydra.mode == RunMode.MULTIRUN
            overrides.check_hydra(node.hydra)
        HydraConfig.instance().set_config(node)
        reproduces = target == "reproduction"
        if not (is_sweep or reproduces):
            overrides.check_one_job(parsed)
            configure_log(node.hydra.job_logging)
            logging.getLogger("flowertune").setLevel(logging.WARNING)  # Hydra raised its level
            return execute(to_config(node))  # Hydra's own run would compose the config again
        if target == "job":
            raise UsageError("sweeps (-m, experiments) are not supported; give each key one value")
        with translate_errors():
            sweep = plan_reproduction(composer, node) if reproduces else plan_sweep(composer, node)
        return run_sweep(sweep, composer, node, check_run(execute) if reproduces else execute)
