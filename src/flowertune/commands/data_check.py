"""`flowertune data check`: find problems in a dataset."""

import dataclasses
import json

from flowertune.config.schema import Config
from flowertune.data.cache_dir import cache_root
from flowertune.data.factory import list_images
from flowertune.data.quality.check import check
from flowertune.errors import EXIT_DONE, EXIT_FAILED
from flowertune.report.console import data_check as report
from flowertune.report.console.run import ConsoleReporter, error_console


def execute(config: Config, as_json: bool) -> int:
    """Print the findings; returns 1 if there are any."""
    console = error_console() if as_json else ConsoleReporter()
    # check all images, not a sample
    data = dataclasses.replace(config.data, shots=None, protocol="official")
    problems: list[str] = []
    with console.progress():
        dataset = list_images(data, cache_root(), console.advance, problems)
        findings = check(dataset, console.advance, problems)
    console.say(f"{dataset.protocol}; {len(dataset.class_names):,} classes")
    for note in dataset.notes:
        console.say(note)
    if as_json:
        summary = {
            "protocol": dataset.protocol,
            "classes": len(dataset.class_names),
            "notes": dataset.notes,
        }
        print(json.dumps(summary | findings.to_dict(), indent=2))
    else:
        report.show(console, findings)
    return EXIT_FAILED if len(findings) else EXIT_DONE
