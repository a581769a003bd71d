"""Render text prompts for classes from templates such as "a photo of a {name}, a flower."."""

from collections.abc import Sequence
from string import Formatter

from flowertune.errors import UsageError


def render(
    templates: Sequence[str], class_names: Sequence[str], descriptions: Sequence[str] | None
) -> list[list[str]]:
    """Return one list of prompts per class, with one prompt per template.

    `descriptions` has one line per class, or is None if the dataset has none. Underscores in class
    names, which are often folder names, become spaces. Raises UsageError without templates and for
    templates that cannot be filled in.
    """
    if not templates:
        raise UsageError('no prompt template; give at least one, such as "a photo of a {name}."')
    for template in templates:
        _check(template, has_descriptions=descriptions is not None)
    class_descriptions = [""] * len(class_names) if descriptions is None else descriptions
    return [
        [
            template.format(name=name.replace("_", " "), description=description)
            for template in templates
        ]
        for name, description in zip(class_names, class_descriptions, strict=True)
    ]


def _check(template: str, has_descriptions: bool) -> None:
    """Raise UsageError if a template cannot be filled in or ignores the class."""
    try:
        fields = [parts[1:] for parts in Formatter().parse(template) if parts[1] is not None]
    except ValueError as error:
        raise UsageError(
            f"prompt template {template!r}: cannot be read ({error}); write {{name}} for the "
            "class name, and {{ or }} for a literal brace"
        ) from error
    # with conversion and format, so that {name!r} is rejected
    placeholders = [
        f"{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"
        for name, spec, conversion in fields
    ]
    if not placeholders:
        raise UsageError(
            f"prompt template {template!r}: has no placeholder, so every class would get the "
            "same prompt; write {name} for the class name"
        )
    for placeholder in placeholders:
        if placeholder not in ("name", "description"):
            raise UsageError(
                f"prompt template {template!r}: unknown placeholder {{{placeholder}}}; "
                "available: {name}, {description}"
            )
    if "description" in placeholders and not has_descriptions:
        raise UsageError(
            f"prompt template {template!r}: uses {{description}}, but this dataset has no "
            "class descriptions; use {name}"
        )
