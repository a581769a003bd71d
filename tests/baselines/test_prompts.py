"""Prompt templates are filled in, and bad ones are rejected."""

import pytest

from flowertune.baselines.prompts import render
from flowertune.errors import UsageError


def test_one_list_of_prompts_for_each_class_with_one_prompt_for_each_template() -> None:
    prompts = render(
        ["a photo of a {name}.", "{name}: {description}"],
        ["sword_lily", "rose"],
        ["tall spikes", "many {petals}"],
    )
    assert prompts == [
        ["a photo of a sword lily.", "sword lily: tall spikes"],
        ["a photo of a rose.", "rose: many {petals}"],
    ]


def test_templates_with_names_need_no_descriptions() -> None:
    assert render(["a {name}"], ["rose", "a{b}"], None) == [["a rose"], ["a a{b}"]]


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        ([], "no prompt template"),
        (["a photo of a flower."], "no placeholder"),
        (["a photo of a {}."], "unknown placeholder {}"),
        (["{name}, a {colour} flower"], "unknown placeholder {colour}"),
        (["{name.__class__}"], "unknown placeholder {name.__class__}"),
        (["{name!r}"], "unknown placeholder {name!r}"),
        (["{name:>9}"], "unknown placeholder {name:>9}"),
        (["a photo of a {name"], "cannot be read"),
        (["a {name}", "{name}: {description}"], "no class descriptions"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_in_one_line(
    templates: list[str], says: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        render(templates, ["rose"], None)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_render_refuses_a_description_that_the_data_does_not_have() -> None:
    with pytest.raises(UsageError, match="descriptions"):
        render(["{description}"], ["rose"], None)


def test_an_unbalanced_brace_is_explained_with_the_way_to_write_one() -> None:
    with pytest.raises(UsageError, match=r"\{name\}.*\{\{ or \}\}"):
        render(["a {name}}"], ["rose"], None)
