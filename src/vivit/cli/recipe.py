"""The fields of a recipe as flags. A field that is not given keeps its value in the named recipe."""

import sys
from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from cyclopts import App, Group, Parameter
from pydantic import BaseModel

from vivit.cli.command import HelpPage
from vivit.cli.options import ARCHITECTURE, AUGMENTATION, CLIPS, HARDWARE, MODEL, REGULARISATION, TRAINING
from vivit.config import ModelConfig
from vivit.errors import UserError, did_you_mean
from vivit.training.recipe import Recipe
from vivit.training.recipes import DESCRIPTIONS, RECIPES, default_recipe

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry
    from rich.console import Console, ConsoleOptions

GROUPS: dict[Group, tuple[str, ...]] = {
    MODEL: ("model", "freeze_spatial", "adapter_size", "position_std"),
    CLIPS: ("num_frames", "frame_stride", "image_size", "resize", "cached_clips", "unreadable"),
    TRAINING: (
        *("epochs", "min_steps", "batch_size", "accumulate", "optimiser", "learning_rate", "learning_rate_batch"),
        *("layer_decay", "warmup_epochs", "weight_decay", "clip_norm", "ema", "seed"),
    ),
    REGULARISATION: ("label_smoothing", "stochastic_depth", "dropout", "token_dropping"),
    AUGMENTATION: (
        *("scale_jitter", "flip", "mirrored", "colour_jitter", "grey_scale", "randaugment", "mixup", "cutmix"),
    ),
    HARDWARE: ("precision",),
    ARCHITECTURE: ("architecture",),
}
GROUP_OF = {field: group for group, fields in GROUPS.items() for field in fields}
# What the help page calls the values of an option, if the type does not say it.
METAVARS = {
    "model": "NAME",
    "scale_jitter": "LOWEST HIGHEST",
    "randaugment": "LAYERS MAGNITUDE",
    "mirrored": "NAME NAME",
    "architecture.tubelet_size": "FRAMES HEIGHT WIDTH",
    "architecture.image_size": "HEIGHT [WIDTH]",
}
# The data decides these fields of ModelConfig.
OF_THE_DATA = ("num_classes", "heads", "multi_label")

RecipeName = Annotated[str, Parameter(metavar="NAME", completer=lambda context: list(RECIPES))]


def _flags(model: type[BaseModel], groups: Mapping[str, Group], prefix: str = "", **types: Any) -> Any:
    """A TypedDict that holds those fields of a model that are given as flags; the model checks their values."""
    flags = {}
    for name, group in groups.items():
        field = model.model_fields[name]
        about = Parameter(
            help=field.description,
            group=group,
            metavar=METAVARS.get(prefix + name),
            show=not prefix or name not in GROUP_OF or name == "image_size",
            consume_multiple=name == "mirrored",
        )
        flags[name] = Annotated[types.get(name) or _plain(field.annotation), about]
    return TypedDict("Flags", flags, total=False)  # type: ignore[operator]


def _plain(hint: Any) -> Any:
    """A type without pydantic's constraints, which the model checks all at once."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _plain(args[0])
    if origin in (Union, UnionType):
        members = [_plain(member) for member in args]
        # Accept the one word None where several words are expected.
        several = any(get_origin(member) is tuple for member in members)
        return reduce(or_, [*members, Literal["None"]] if several else members)
    if origin is tuple:
        return tuple[tuple(map(_plain, args))]  # type: ignore[misc]
    return hint


if TYPE_CHECKING:
    RecipeFlags = dict[str, Any]
else:
    _architecture = dict.fromkeys((name for name in ModelConfig.model_fields if name not in OF_THE_DATA), ARCHITECTURE)
    RecipeFlags = Annotated[
        _flags(
            Recipe,
            GROUP_OF,
            mirrored=tuple[tuple[str, str], ...],
            architecture=_flags(ModelConfig, _architecture, "architecture.", image_size=tuple[int, int] | int),
        ),
        Parameter(name="*"),
    ]


def named_recipe(name: str) -> Recipe:
    """Raises UserError if there is no recipe of this name."""
    if name not in RECIPES:
        known = did_you_mean(name, RECIPES) or "there are " + ", ".join(RECIPES)
        raise UserError(f"recipe: no {name!r}; {known}")
    return RECIPES[name]


def change_recipe(recipe: Recipe, flags: RecipeFlags) -> Recipe:
    """The recipe with the fields that were given. Raises pydantic.ValidationError if a value is out of range."""
    given = dict(flags)
    if "mirrored" in given:
        given["mirrored"] = dict(given["mirrored"])
    if "architecture" in given:
        given["architecture"] = {**recipe.architecture, **given["architecture"]}
    return Recipe.model_validate({**recipe.model_dump(), **given})


class RecipePage(HelpPage):
    """A help page on which the defaults are the values of the recipe that the command line names."""

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        named_recipe(_name_on_command_line(tuple(sys.argv[1:])))  # refuse a wrong name before anything is printed
        super().render_usage(console, options, usage)

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:
        super().render_description(console, options, description)
        name = _name_on_command_line(tuple(sys.argv[1:]))
        super().render_description(console, options, f"Recipe {name}: {DESCRIPTIONS[name]}")

    def default(self, entry: "HelpEntry") -> str | None:
        (name,) = entry.positive_names[:1] or ("",)
        field, _, of_architecture = name.removeprefix("--").replace("-", "_").partition(".")
        if field not in Recipe.model_fields:
            return entry.default
        value = getattr(RECIPES[_name_on_command_line(tuple(sys.argv[1:]))], field)
        if of_architecture:
            value = value.get(of_architecture, {})
        if value == {}:
            return None
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@cache
def _name_on_command_line(arguments: tuple[str, ...]) -> str:
    app = App(help_flags=(), version_flags=(), exit_on_error=False, print_error=False)

    @app.default
    def named(*, recipe: str | None = None, init: str | None = None) -> str:
        return recipe or default_recipe(init)

    command, bound, *_ = app.parse_known_args(arguments)
    return command(*bound.args, **bound.kwargs)
