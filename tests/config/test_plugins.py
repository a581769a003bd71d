"""Plug-ins of another package: used like built-in options, refused in one line if broken."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import plugin_package
import pytest

from flowertune import cli
from flowertune.config import plugins
from flowertune.config.probe import SOLVERS
from flowertune.errors import UsageError

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install the package in this process."""
    built_in = list(SOLVERS)

    def install(*arguments: object) -> None:
        monkeypatch.syspath_prepend(plugin_package.install(tmp_path, *arguments))  # type: ignore[arg-type]
        plugins.plugins.cache_clear()

    yield install
    plugins.plugins.cache_clear()
    SOLVERS[:] = built_in
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def in_a_process(site: Path, code: str, **environment: str) -> str:
    """Output of the code in another process, which keeps the plug-ins out of this one."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_help_lists_them_and_loads_no_torch(tmp_path: Path) -> None:
    text = in_a_process(
        plugin_package.install(tmp_path),
        "import sys\nfrom flowertune import cli\ncli.main(['train', '--help-all'])\n"
        "sys.exit('torch' in sys.modules)",
    )
    words = " ".join(text.split())
    assert (
        "loss=poly Cross-entropy plus a weighted first term of its expansion loss=triplet" in words
    )
    assert "  head=mlp " in text
    assert "weight of the first term (only poly) a number, at least -1" in words
    assert "one of lbfgs, adamw, ridge, means" in words


@pytest.mark.parametrize(
    ("word", "expected"), [("loss=po", "loss=poly"), ("loss=poly loss.eps", "loss.epsilon=")]
)
def test_the_shell_completes_them(word: str, expected: str, tmp_path: Path) -> None:
    line = f"flowertune train {word}"
    text = in_a_process(
        plugin_package.install(tmp_path),
        "import sys\nfrom flowertune import cli\nsys.exit(cli.main(['-sc', 'query=bash']))",
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    assert text.split() == [expected]


def test_their_keys_are_checked_like_flowertunes_own(tmp_path: Path) -> None:
    """All cases share a process, as Hydra takes a second to load."""
    cases = {
        ("loss=poly", "loss.epsilon=much"): "loss.epsilon=much: must be a number, at least -1",
        ("loss=poly", "loss.epsilon=-2"): "loss.epsilon=-2.0: must be at least -1",
        ("loss=poly", "loss.gamma=2"): (
            "loss.gamma: unknown key; loss has epsilon; available with loss=focal"
        ),
        ("loss.epsilon=2",): (
            "loss.epsilon: unknown key; loss has class_weights, label_smoothing, logit_adjustment;"
            " available with loss=poly"
        ),
        ("loss=pol",): (
            "loss=pol: unknown loss; available: ce, focal, poly, triplet_ce; did you mean poly?"
        ),
        ("probe.solver=mean",): ("probe.solver=mean: must be one of lbfgs, adamw, ridge, means"),
    }
    text = in_a_process(
        plugin_package.install(tmp_path),
        "from flowertune.commands import compose\nfrom flowertune.errors import UsageError\n"
        f"for words in {list(cases)}:\n"
        "    try:\n        compose.run(list(words), lambda config: 0)\n"
        "    except UsageError as error:\n        print(error)",
    )
    assert text.splitlines() == list(cases.values())


IMPORT = "from flowertune.config.plugins import Plugin\n"
FIELD = 'config_field(1.0, "weight of the first term", at_least=-1)'
BROKEN = {
    "import": ("1 / 0\n", "cannot be imported (ZeroDivisionError: division by zero)"),
    "no plug-in": ("poly = 3\n", "theirs.plugin:poly is not a flowertune.config.plugins.Plugin"),
    "group": (
        IMPORT + "poly = Plugin('lose', 'theirs:poly')\n",
        "group=lose: must be one of model, loss, head, solver",
    ),
    "no options": (
        IMPORT + "poly = Plugin('loss', 'theirs:poly', dict)\n",
        "its options must be a dataclass derived from LossConfig",
    ),
    "name": (
        plugin_package.PLUGIN.replace('option("poly")', 'option("paul")'),
        "its options must have name: str = option('poly')",
    ),
    "field": (
        plugin_package.PLUGIN.replace(FIELD, "1.0"),
        "key epsilon must use config_field, with a type that is not a string",
    ),
    "annotations": (
        f"from __future__ import annotations\n{plugin_package.PLUGIN}",
        "key name must use config_field, with a type that is not a string",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_is_a_line_that_names_its_package(
    case: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    module, problem = BROKEN[case]
    install(module, ("poly",))
    for command in (["train", "--help"], ["train", "method=lora"]):
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert error.endswith(f": plug-in poly of flowertune-theirs 1.5: {problem}\n")
        assert error.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("focal", "poly"), ("ridge", "means")])
def test_no_plugin_takes_the_name_of_flowertunes_own(
    name: str, value: str, install: Install
) -> None:
    install(plugin_package.PLUGIN, {name: value})
    with pytest.raises(
        UsageError, match=f"plug-in {name} .* already has a (loss|solver) of this name"
    ):
        plugins.plugins()


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (
            plugin_package.PLUGIN.replace("torch_parts:poly", "nowhere:poly"),
            "theirs.nowhere:poly cannot be imported (ModuleNotFoundError: No module named "
            "'theirs.nowhere')",
        ),
        (plugin_package.PLUGIN.replace("epsilon", "eps"), "loss has no key epsilon"),
    ],
)
def test_a_function_that_does_not_fit_its_config_is_refused(
    module: str, problem: str, install: Install
) -> None:
    install(module)
    plugin, _ = plugins.plugins()["loss", "poly"]
    assert plugin.options is not None
    with pytest.raises(UsageError) as refusal:
        plugins.bind("loss", "poly", {}, plugin.options())
    assert str(refusal.value) == f"plug-in poly of flowertune-theirs 1.5: {problem}"
