"""The documentation says what the code does: generated pages, links and the commands of README."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from flowertune.commands.registry import COMMANDS
from flowertune.config.groups import conf_dir
from flowertune.config.listing import list_options, read_option

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_generated_pages_and_tables_are_up_to_date() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from build_reference import build_pages
    finally:
        sys.path.pop(0)
    for path, text in build_pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale; run: make reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_exist(page: Path) -> None:
    commands = set(COMMANDS)
    options = {
        path.name: {each.stem for each in path.glob("*.yaml")} for path in conf_dir().iterdir()
    }
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("flowertune "):
                continue
            words = shlex.split(line, comments=True)[1:]
            name = " ".join(words[:3])
            assert any(name.startswith(each) for each in commands) or words[0].startswith("-"), line
            for word in words:
                group, _, value = word.partition("=")
                if group in ("method", "loss", "head", "augmentation", "backbone", "model"):
                    assert all(v in options[group] for v in value.split(",")), line


def test_every_method_says_what_it_is_when_to_use_it_and_what_it_costs() -> None:
    for method in list_options("method"):
        texts = (method.summary, method.when, method.cost)
        assert all(texts), method.name
        assert max(map(len, texts)) <= 78, method.name


def test_an_option_is_described_by_the_first_sentence_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# @package _global_\n# LoRA, with my\n# settings. Not tried yet.\nmethod: mine\n"
    )
    option = read_option("mine", path)
    assert (option.summary, option.when, option.cost) == ("LoRA, with my settings", "", "")


def test_the_citation_has_the_version_of_the_package() -> None:
    import flowertune

    assert f"version: {flowertune.__version__}\n" in (ROOT / "CITATION.cff").read_text()
