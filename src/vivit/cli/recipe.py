"""The fields of a recipe as flags. A field that is not given keeps its value in the named recipe."""

import sys
from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar, Union, get_args, get_origin

from cyclopts import App, Group, Parameter
from pydantic import BaseModel

from vivit.cli.command import HelpPage
from vivit.cli.options import ARCHITECTURE, AUGMENTATION, CLIPS, HARDWARE, MODEL, REGULARISATION, TRAINING
from vivit.config import ModelConfig
from vivit.errors import UserError, did_you_mean
from vivit.training.recipe import PretrainRecipe, Recipe
from vivit.training.recipes import (
    DESCRIPTIONS,
    PRETRAIN_DESCRIPTIONS,
    PRETRAIN_RECIPES,
    RECIPES,
    default_recipe,
)

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry
    from rich.console import Console, ConsoleOptions

GROUPS: dict[Group, tuple[str, ...]] = {
    MODEL: ("model", "freeze_spatial", "probe", "adapter_size", "position_std"),
    CLIPS: ("num_frames", "frame_stride", "frame_rate", "image_size", "resize", "cached_clips", "unreadable"),
    TRAINING: (
        *("epochs", "min_steps", "batch_size", "accumulate", "optimiser", "adam_beta2", "learning_rate"),
        *("learning_rate_batch", "layer_decay", "warmup_epochs", "weight_decay", "clip_norm", "ema", "seed"),
    ),
    REGULARISATION: ("label_smoothing", "stochastic_depth", "dropout", "token_dropping"),
    AUGMENTATION: (
        *("scale_jitter", "flip", "mirrored", "colour_jitter", "grey_scale", "randaugment", "mixup", "cutmix"),
    ),
    HARDWARE: ("precision",),
    ARCHITECTURE: ("architecture",),
}
GROUP_OF = {field: group for group, fields in GROUPS.items() for field in fields}
# Fields that pretraining without labels does not use.
OF_LABELS = {
    *("freeze_spatial", "probe", "cached_clips", "layer_decay", "ema", "label_smoothing", "token_dropping"),
    *("mirrored", "mixup", "cutmix"),
}
PRETRAIN_GROUP_OF = {
    **{field: MODEL for field in ("mask_ratio", "decoder_layers", "decoder_size")},
    **{field: group for field, group in GROUP_OF.items() if field not in OF_LABELS},
}
# An option's value on the help page, if its type does not determine it.
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

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
RecipeName = Annotated[str, Parameter(metavar="NAME", completer=lambda context: list(RECIPES))]


def _flags(model: type[BaseModel], groups: Mapping[str, Group], prefix: str = "", **types: Any) -> Any:
    """A TypedDict for the model's fields that are given as flags; the model checks their values."""
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
    PretrainFlags = dict[str, Any]
else:
    _architecture = dict.fromkeys((name for name in ModelConfig.model_fields if name not in OF_THE_DATA), ARCHITECTURE)
    _types = {
        "mirrored": tuple[tuple[str, str], ...],
        "architecture": _flags(ModelConfig, _architecture, "architecture.", image_size=tuple[int, int] | int),
    }
    RecipeFlags = Annotated[_flags(Recipe, GROUP_OF, **_types), Parameter(name="*")]
    PretrainFlags = Annotated[_flags(PretrainRecipe, PRETRAIN_GROUP_OF, **_types), Parameter(name="*")]


def named_recipe(name: str, recipes: Mapping[str, AnyRecipe]) -> AnyRecipe:
    """Raises UserError if none of the recipes has this name."""
    if name not in recipes:
        known = did_you_mean(name, recipes) or "there are " + ", ".join(recipes)
        raise UserError(f"recipe: no {name!r}; {known}")
    return recipes[name]


def change_recipe(recipe: AnyRecipe, flags: RecipeFlags) -> AnyRecipe:
    """The recipe with the fields that were given. Raises pydantic.ValidationError if a value is out of range."""
    given = dict(flags)
    if "mirrored" in given:
        given["mirrored"] = dict(given["mirrored"])
    if "architecture" in given:
        given["architecture"] = {**recipe.architecture, **given["architecture"]}
    return type(recipe).model_validate({**recipe.model_dump(), **given})


class RecipePage(HelpPage):
    """A help page on which the defaults are the values of the recipe that the command line names."""

    recipes: Mapping[str, Recipe] = RECIPES
    descriptions: Mapping[str, str] = DESCRIPTIONS

    @property
    def name(self) -> str:
        given, default = _name_on_command_line(tuple(sys.argv[1:]))
        return given or (default if default in self.recipes else next(iter(self.recipes)))

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        named_recipe(self.name, self.recipes)  # refuse a wrong name before anything is printed
        super().render_usage(console, options, usage)

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:
        super().render_description(console, options, description)
        super().render_description(console, options, f"Recipe {self.name}: {self.descriptions[self.name]}")

    def default(self, entry: "HelpEntry") -> str | None:
        (name,) = entry.positive_names[:1] or ("",)
        field, _, of_architecture = name.removeprefix("--").replace("-", "_").partition(".")
        recipe = self.recipes[self.name]
        if field not in type(recipe).model_fields:
            return entry.default
        value = getattr(recipe, field)
        if of_architecture:
            value = value.get(of_architecture, {})
        if value == {}:
            return None
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class PretrainPage(RecipePage):
    """The same for the recipes of `vivit pretrain`."""

    recipes = PRETRAIN_RECIPES
    descriptions = PRETRAIN_DESCRIPTIONS


@cache
def _name_on_command_line(arguments: tuple[str, ...]) -> tuple[str | None, str]:
    """The recipe that the user names, if any, and the one that `vivit train` uses otherwise."""
    app = App(help_flags=(), version_flags=(), exit_on_error=False, print_error=False)

    @app.default
    def named(
        *, recipe: str | None = None, init: str | None = None, probe: str | None = None
    ) -> tuple[str | None, str]:
        return recipe, default_recipe(init, probe)

    command, bound, *_ = app.parse_known_args(arguments)
    return command(*bound.args, **bound.kwargs)
