"""From the words on the command line to a checked Config, by Hydra.

Hydra composes, this module turns what it refuses into one line for people, and hands each job
to a function as plain dataclasses.
"""

import contextlib
import difflib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from flowertune.conf_dir import conf_dir
from flowertune.config import SCHEMAS, Config
from flowertune.config_checks import check
from flowertune.errors import EXIT_DONE, EXIT_FAILED, Refused
from flowertune.runs import run_name


def run(arguments: Sequence[str], execute: Callable[[Config], int]) -> int:
    """Composes one config, or with -m several, and calls `execute` with each.

    Returns the job's exit code; of several jobs 0 where all were done, 2 where all were refused,
    else 1. A multirun composes and checks all its configs before the first job starts.

    Raises:
        Refused: for a config that does not compose or a value out of its range.
    """
    words, options, multirun = _split(arguments)
    if multirun and not _names(words, "hydra/sweeper"):
        with tempfile.TemporaryDirectory() as folder:
            here = [word for word in words if not _names([word], "hydra/launcher")]
            here += ["hydra/launcher=basic", f"hydra.sweep.dir={folder}"]
            _compose([*here, *options], lambda config: EXIT_DONE)
    return _compose([*words, *options], execute)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Hydra's words, its options with their values, and whether jobs are to be run in numbers.

    Hydra's own parser wants all words side by side; people type -m anywhere.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = get_args_parser().parse_intermixed_args(list(arguments))
    except SystemExit:
        raise Refused(complaint.getvalue().strip().rpartition("error: ")[2]) from None
    options = list(arguments)
    for word in parsed.overrides:
        options.remove(word)
    return parsed.overrides, options, parsed.multirun and not (parsed.cfg or parsed.info)


def _compose(arguments: Sequence[str], execute: Callable[[Config], int]) -> int:
    exit_codes: list[int] = []
    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def job(node: DictConfig) -> None:
        # Kept rather than raised: Hydra would print of its own, and a multirun would not go on.
        try:
            config = to_config(node)
            if config.run.name is None:
                typed_words = list(HydraConfig.get().overrides.task)
                config.run.name = run_name(config.method, typed_words)
            exit_codes.append(execute(config))
        except Exception as failure:
            failures.append(failure)

    _register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing a traceback
    typed = sys.argv
    sys.argv = [typed[0], *arguments]
    try:
        job()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise Refused(explain(error)) from error
    finally:
        sys.argv = typed
    if failures:
        raise failures[0]
    return EXIT_FAILED if len(set(exit_codes)) > 1 else max(exit_codes, default=EXIT_DONE)


def _names(words: Sequence[str], group: str) -> bool:
    """Whether a word sets that Hydra group or a key of it."""
    prefixes = (f"{group}=", f"{group.replace('/', '.')}.")
    return any(word.lstrip("+~").startswith(prefixes) for word in words)


def to_config(node: DictConfig) -> Config:
    """The composed node as checked dataclasses.

    Raises:
        Refused: for a key without a value or a value out of its range.
    """
    try:
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise Refused(explain(error)) from error
    assert isinstance(config, Config)
    check(config)
    _make_absolute(config)
    return config


def _make_absolute(config: Config) -> None:
    """What a run records must hold from any directory, so paths are anchored where they enter."""
    for holder, name in ((config.data, "root"), (config.backbone, "path")):
        path = getattr(holder, name, None)
        if path is not None:
            setattr(holder, name, str(Path(path).expanduser().absolute()))


def explain(error: BaseException) -> str:
    """One line for a person from what Hydra or OmegaConf raised."""
    for link in _chain(error):
        if isinstance(link, Refused):
            return str(link)
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            return _no_such_option(link)
        if isinstance(link, OverrideParseException):
            word = str(link.override)
            return f"{word}: cannot be read as key=value{_quoting_hint(word)}"
        if isinstance(link, MissingMandatoryValue):
            return f"{link.full_key}: missing; give it a value ({link.full_key}=...)"
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return _wrong_key_or_value(link)
    return _first_line(error)


def _register() -> None:
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            store.store(group=f"schema/{group}", name=name, node=schema)


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links[::-1]


def _no_such_option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    if not group:
        return f"{name}: there is no such config"
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{group}={name}: there is no such {group}; there are {', '.join(options)}{hint}"


def _wrong_key_or_value(error: OmegaConfBaseException) -> str:
    key = str(error.full_key)
    reason = _first_line(error)
    if "not in" in reason:  # an unknown key
        parent, _, last = key.rpartition(".")
        known = _fields_of(error)
        near = difflib.get_close_matches(last, known, n=1)
        place = parent or "the config"
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{key}: there is no such key; {place} has {', '.join(known)}{hint}"
    value = re.match(
        r"Value '(.*)' of type '\w+' (?:could not be converted to|is incompatible with type hint)"
        r" '?([\w\[\], ]+)",
        reason,
    )
    if value:
        kinds = {
            "Integer": "a whole number",
            "Float": "a number",
            "Boolean": "true or false",
            "Union[int, str]": "a whole number or a word",
            "Union[float, int, str]": "a number or a word",
        }
        return f"{key}={value[1]}: must be {kinds.get(value[2], value[2])}"
    return f"{key}: {reason}"


def _fields_of(error: OmegaConfBaseException) -> list[str]:
    schema = error.object_type
    declared = getattr(schema, "__dataclass_fields__", None)
    return sorted(declared) if declared else sorted(SCHEMAS)


def _quoting_hint(word: str) -> str:
    """Hydra's grammar gives meaning to ( ) [ ] { } , : in a value; quotes take it away."""
    key, _, value = word.partition("=")
    return f"; quote the value: '{key}=\"{value}\"'" if value else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
