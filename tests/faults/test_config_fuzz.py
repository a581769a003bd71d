"""Any command line gives a valid config, or one error line and exit code 2.

Overrides are generated from the schema and from conf/, so that new keys and options are included.
Validity is derived from the dataclasses independently of the code under test.
"""

import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hydra._internal.hydra import Hydra
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from flowertune import cli
from flowertune.commands import compose, train
from flowertune.config import saved
from flowertune.config.compose import to_config
from flowertune.config.fields import format_value
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config
from flowertune.sweeps import launch

Compose = Callable[..., Config]
GROUPS = {
    folder.name: sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    for folder in conf_dir().iterdir()
    if folder.is_dir()
}
# Internals of Hydra, OmegaConf and Python, which an error message must not show.
INSIDES = ("full_key", "object_type", "reference_type", "Traceback", "DictConfig", "Override(",
           "composing config", "_dummy_", "$KEY", "<class", "HYDRA_FULL_ERROR")  # fmt: skip


def _declared() -> Iterator[tuple[str, Any, list[str]]]:
    """Every key with its declaration and the override that selects its option."""
    schemas = [("", Config, []), ("probe.", ProbeConfig, []), ("run.", RunConfig, [])]
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            chosen = [f"{group}={name}"] if name in GROUPS[group] else []
            schemas.append((f"{group}.", schema, chosen))
    for prefix, schema, chosen in schemas:
        for declared in fields(schema):
            if declared.metadata:
                yield f"{prefix}{declared.name}", declared, chosen


DECLARED = {key: (declared, chosen) for key, declared, chosen in _declared()}
WORDS = ("", "null", "nan", "-inf", "inf", "true", "yes", "0", "-0.0", "1", "1.5", "-1", "1e400",
         "1e-400", "2147483648", "9" * 40, "0x10", "1_000", "x" * 1000, "ä", "🌷", "a b", "a\nb",
         "\t", "'", '"', "'a", '"a"', "[", "]", "{", "}", "()", ",", ":", "=", "@", "#", "\\", "%",
         "..", "/etc/passwd", "~", "~/x", "???", "[]", "[[]]", "[null]", "[???]", "[nan]",
         "[[1]]", "[{a:1}]", "[1,a]", "[true]", "{}", "{a:1}", "{name:x}", "{null:2}",
         "{_target_:x}",
         "${seed}", "${nope}", "${", "${}", "$", "${oc.env:NOPE}", "${oc.env:PATH}", "${eval:1+1}",
         "${run}", "${model}", "[${run.root}]", "${now:%Y}", "${hydra:job.name}", "choice(1,2)",
         "range(1,3)", "interval(0,1)", "glob(*)", "sort(1,2)", "shuffle(1,2)", "int(3.5)",
         "float(1)", "str(1)", "bool(x)", "tag(a,1)", "1,2", "a,b", ",1", "nope(1)", "!!python/x 1",
         "\udcff", "\x00", "\x85", "\u2028", "\ufeff1")  # fmt: skip


def _near_bounds(declared: Any) -> list[str]:
    """Values at, just inside and just outside each bound, and all choices; lists for a list key."""
    rules = declared.metadata
    bounds = [rules[name] for name in ("above", "below", "at_least", "at_most")]
    types = str(declared.type)
    steps = (0, 1, -1) if "int" in types else (0, 1, -1, 1e-9, -1e-9)
    values = [str(bound + step) for bound in bounds if bound is not None for step in steps]
    values += [*(rules["choices"] or ()), "1", "null"]
    values += ["true", "false"] * ("bool" in types) + ["a"] * ("str" in types)
    values += ["0.5"] * ("float" in types)
    if get_origin(declared.type) is not list:
        return values
    return [f"[{value}]" for value in values] + [f"[{value},{value}]" for value in values]


KEYS = [*DECLARED, *GROUPS, *(f"{group}.name" for group in GROUPS)]
OPTIONS = [f"{group}={name}" for group in GROUPS for name in GROUPS[group]]
ODD_KEYS = ("", ".", "=", "a.b", "nope", "Seed", "seed.x", "seed.0", "run", "probe",
            "model.layers.0", "model.targets.0", "model/lora", "model._target_", "schema",
            "_target_", "defaults",
            "schema/model", "hydra", "hydra.mode", "hydra.job.env_copy", "hydra.job_logging",
            "hydra/job_logging", "hydra/launcher", "hydra.launcher", "hydra.launcher._target_",
            "hydra.sweeper", "hydra.sweeper._target_", "hydra.sweeper.params", "hydra.run.dir",
            "hydra.callbacks.x._target_", "hydra.searchpath", "hydra.output_subdir")  # fmt: skip


@st.composite
def _assignment(draw: st.DrawFn) -> list[str]:
    """key=value, with the option of the key; most values are near the key's bounds."""
    key = draw(st.sampled_from(draw(st.sampled_from([*[KEYS] * 6, ODD_KEYS]))))
    values = [st.sampled_from(WORDS), st.sampled_from(WORDS), st.text(max_size=8)]
    if key in DECLARED:
        values += [st.sampled_from(_near_bounds(DECLARED[key][0]))] * 12
    sign = draw(st.sampled_from([*[""] * 60, "+", "++", "~"]))
    place = draw(st.sampled_from([*[""] * 60, "@x", "@_global_", ":x"]))
    equals = draw(st.sampled_from([*["="] * 60, "", "==", " = "]))
    chosen = DECLARED[key][1] if key in DECLARED else []
    return [*chosen, f"{sign}{key}{place}{equals}{draw(st.one_of(values))}"]


TYPED = st.tuples(
    st.sampled_from([*[[]] * 9, ["-m"]]),
    st.lists(st.sampled_from(OPTIONS), max_size=1),
    st.lists(_assignment(), max_size=3).map(lambda several: [w for each in several for w in each]),
).map(lambda parts: [word for part in parts for word in part])


def _is_within(declared: Any, value: Any) -> bool:
    """Whether type and range of the declaration allow the value."""
    if get_origin(declared.type) is list:
        element = (get_args(declared.type)[0],)
        return type(value) is list and all(_is_one(declared, element, each) for each in value)
    types = get_args(declared.type) or (declared.type,)
    if type(value) is list:
        element = tuple(get_args(each)[0] for each in types if get_origin(each) is list)
        return all(_is_one(declared, element, each) for each in value) and bool(element)
    return _is_one(declared, types, value)


def _is_one(declared: Any, types: tuple[Any, ...], value: Any) -> bool:
    rules = declared.metadata
    if type(value) not in types:
        return False
    if isinstance(value, str):
        return rules["choices"] is None or value in rules["choices"]
    if value is None or isinstance(value, bool):
        return True
    least, most = rules["at_least"], rules["at_most"]
    above, below = rules["above"], rules["below"]
    return (
        math.isfinite(value)
        and not (least is not None and value < least)
        and not (most is not None and value > most)
        and not (above is not None and value <= above)
        and not (below is not None and value >= below)
    )


def _wrong(node: Any) -> list[str]:
    """The undeclared keys, and those with invalid values."""
    wrong = [name for name in vars(node) if name not in {each.name for each in fields(node)}]
    for declared in fields(node):
        value = getattr(node, declared.name)
        if is_dataclass(value):
            wrong += [f"{declared.name}.{name}" for name in _wrong(value)]
        elif not declared.metadata or not _is_within(declared, value):
            wrong.append(declared.name)
    return wrong


class Typing:
    """Runs command lines without training."""

    def __init__(self) -> None:
        self.configs: list[Config] = []

    def __call__(self, words: list[str]) -> tuple[int | str | None, str, list[Config]]:
        """Return exit code, standard error, and the configs that would be trained."""
        self.configs.clear()
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                code: int | str | None = cli.main(["train", *words])
            except SystemExit as end:
                code = end.code
        return code, errors.getvalue(), list(self.configs)


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Typing:
    typing = Typing()

    def keep(node: DictConfig) -> Config:
        config = to_config(node)
        typing.configs.append(config)
        return config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "execute", lambda config: 0)
    monkeypatch.setattr(compose, "to_config", keep)
    monkeypatch.setattr(launch, "to_config", keep)
    monkeypatch.setattr(Hydra, "multirun", lambda *words: None)  # planning is enough
    return typing


def _begins_with_what_was_typed(message: str, words: list[str]) -> bool:
    names = [*DECLARED, *GROUPS, "-m", "jobs 1 and 2 of the sweep"]
    for word in words:
        key = word.partition("=")[0]
        names += [
            format_value(key),
            key.lstrip("+~"),
            re.split("[.@]", key.lstrip("+~"))[0],
            format_value(word),
        ]
    return any(name and message.startswith(name) for name in names) or not any(words)


def _composes_or_is_refused(typing: Typing, words: list[str]) -> None:
    code, errors, configs = typing(words)
    if code == 2:
        prefix, _, message = errors.partition(": ")
        assert prefix == "flowertune train"
        assert message.endswith("\n")
        line = message.removesuffix("\n")
        assert line.isprintable(), line
        assert len(line) <= 300, line
        assert not any(inside in line for inside in INSIDES), line
        assert _begins_with_what_was_typed(line, words), line
    else:
        assert errors == ""
        assert code in (0, 1), "1: a sweep whose jobs were not started"
        assert configs or code == 1, "only a search has no configs yet"
    for config in configs:
        assert _wrong(config) == []


# Inputs that once caused a traceback, silence, exhausted memory, or a message of Hydra.
FOUND = [
    line.split()
    for line in """\
model.layers=[[0]]
model.layers=[{a:1}]
model.targets=[[q]]
data.templates=[{a:b}]
data.templates=${seed}
experiment=[null]
+model.layers.0=1
model.layers.0=1
seed.x=1
hydra.job.env_copy=[NOPE]
hydra.mode=???
hydra.sweeper.params={a:b}
hydra=null
hydra.mode.x=1
hydra/launcher=null
-m seed=1,2 hydra.sweeper=null
-m seed=1,2 hydra.launcher=null
-m seed=1,2 hydra.launcher._target_=os.system
-m seed=range(1,1000000000)
-m seed=range(1,3,-1)
-m seed=range(1,3,0)
-m seed=glob(*)
-m method=glob(zzz*)
-m hydra/launcher=basic,basic
probe=${oc.env:PATH}
-m seed=${oc.env:NOPE},2
run=${model}
method=[lora,mixup]
model=[lora,vpt]
model=1
model=${nope}
model=../method/lora
experiment=../method/lora
experiment=nope
~seed
~run
~experiment
=1
~
~=1
run=[]
backbone@x=tiny
schema/model=lora
trainer.adapter_scales=[???]
trainer.adapter_scales={a:1}
optimizer={null:2}
seed=\udcff
run.name=\x00
run.root=\udcff
""".splitlines()
]


def _found(test: Callable[..., None]) -> Callable[..., None]:
    for words in FOUND:
        test = example(words=words)(test)
    return test


SETTINGS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_found
@given(words=TYPED)
@settings(SETTINGS, max_examples=60)
def test_known_arguments_compose_or_are_refused_in_one_line(
    typing: Typing, words: list[str]
) -> None:
    _composes_or_is_refused(typing, words)


@pytest.mark.faults
@given(words=TYPED)
@settings(SETTINGS, max_examples=2000)
def test_random_arguments_compose_or_are_refused_in_one_line(
    typing: Typing, words: list[str]
) -> None:
    _composes_or_is_refused(typing, words)


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["true", "1", "1e3", "null", "~", "", "- a", r"\${x}"]
)


@st.composite
def _sound(draw: st.DrawFn) -> list[str]:
    """Overrides that mostly compose: a method, values near their bounds, any text for a string."""
    words = [f"method={draw(st.sampled_from(GROUPS['method']))}", *draw(st.sampled_from(PLACES))]
    for key in draw(st.lists(st.sampled_from(sorted(DECLARED)), max_size=3)):
        declared = DECLARED[key][0]
        value = draw(st.sampled_from(_near_bounds(declared)))
        if declared.type in (str, str | None) and not declared.metadata["choices"]:
            value = f"'{draw(TEXTS)}'"
        words.append(f"{key}={value}")
    return words


PLACES = ([], ["backbone=tiny"], ["data=synthetic"], ["data=folder", "data.root=photos"])


def _comes_back(typing: Typing, folder: Path, words: list[str]) -> None:
    _composes_or_is_refused(typing, words)
    for config in list(typing.configs):
        text = saved.to_yaml(asdict(config))
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        code, errors, again = typing(["--config-path", str(folder)])
        assert (code, errors) == (0, "")
        assert again == [config]


@example(words=[r"run.root='\${seed}'", r"data.templates=['{name} \${x}']"])
@given(words=_sound())
@settings(SETTINGS, max_examples=12)
def test_a_saved_config_reads_back_equal(typing: Typing, tmp_path: Path, words: list[str]) -> None:
    _comes_back(typing, tmp_path, words)


@pytest.mark.faults
@given(words=_sound())
@settings(SETTINGS, max_examples=500)
def test_any_saved_config_reads_back_equal(
    typing: Typing, tmp_path: Path, words: list[str]
) -> None:
    _comes_back(typing, tmp_path, words)
