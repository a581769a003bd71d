"""Render text prompts for classes from templates such as "a photo of a {name}, a flower."."""

from collections.abc import Sequence
from string import Formatter

from flowertune.errors import UsageError


def render(
    templates: Sequence[str], class_names: Sequence[str], descriptions: Sequence[str] | None
) -> list[list[str]]:
    """Render one list of prompts for each class, one prompt for each template.

    `descriptions` has one line for each class, or is None where the source does not describe them.
    Underscores in class names, which are often folder names, become spaces.

    Raises:
        UsageError: no template; a template with unbalanced braces, without a placeholder, with one
            other than {name} and {description}, or with {description} where there is none.
    """
    if not templates:
        raise UsageError('no prompt template: give at least one, such as "a photo of a {name}."')
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
    """Refuse a template that cannot be filled in, or would give every class the same prompt."""
    try:
        fields = [parts[1:] for parts in Formatter().parse(template) if parts[1] is not None]
    except ValueError as error:
        raise UsageError(
            f"prompt template {template!r} cannot be read ({error}): write {{name}} where the "
            "class name belongs, and {{ or }} for a brace that is meant literally"
        ) from error
    # with any conversion or format, so that {name!r} is refused
    placeholders = [
        f"{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"
        for name, spec, conversion in fields
    ]
    if not placeholders:
        raise UsageError(
            f"prompt template {template!r} has no placeholder, so every class would get the "
            "same prompt: write {name} where the class name belongs"
        )
    for placeholder in placeholders:
        if placeholder not in ("name", "description"):
            raise UsageError(
                f"prompt template {template!r} has the unknown placeholder "
                f"{{{placeholder}}}: only {{name}} and {{description}} are filled in"
            )
    if "description" in placeholders and not has_descriptions:
        raise UsageError(
            f"prompt template {template!r} asks for {{description}}, but this data has no "
            "descriptions of its classes: use {name}"
        )
