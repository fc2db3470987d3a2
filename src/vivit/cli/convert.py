"""`vivit convert`"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import MODEL, OUTPUT, FieldFlags, Fields, Source
from vivit.errors import UserError
from vivit.progress import console

app = verb(
    "convert",
    "vivit convert google/vivit-b-16x2-kinetics400 b-k400",
    "vivit convert ViT-B_16.npz start --variant factorised_encoder --num-frames 16",
    "vivit convert run for_transformers --to huggingface",
)


@app.default
def convert(
    source: Source,
    out: Annotated[Path, Parameter(group=OUTPUT)],
    /,
    *,
    to: Annotated[Literal["vivit", "huggingface"], Parameter(group=OUTPUT, metavar="FORMAT")] = "vivit",
    licence: Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")] = None,
    flags: FieldFlags = None,
    tubelet_size: Annotated[tuple[int, int, int] | None, Parameter(group=MODEL, metavar="FRAMES HEIGHT WIDTH")] = None,
    tubelet_init: Annotated[
        Literal["central_frame", "filter_inflation", "random"] | None, Parameter(group=MODEL, metavar="HOW")
    ] = None,
    num_classes: Annotated[int | None, Parameter(group=MODEL, metavar="N")] = None,
    classes: Annotated[tuple[str, ...], Parameter(group=MODEL, metavar="FILE…", consume_multiple=True)] = (),
) -> None:
    """Turn weights of any kind into a model folder.

    The conversion can change the clip, tubelets and classes; it prints each change.

    Args:
        out: The folder to write.
        to: Write a folder for vivit, or one that transformers can load.
        licence: The licence of the weights, for the model card.
        tubelet_size: Size of a tubelet.
        tubelet_init: How to initialise the kernel of tubelets that span more frames.
        num_classes: Number of classes of a new head.
        classes: A file with a class name on each line. For several heads: noun=FILE verb=FILE.
    """
    from vivit.weights.convert import convert

    loaded = convert(
        source,
        out,
        to,
        tubelet_init,
        _read_classes(classes),
        licence,
        tubelet_size=tubelet_size,
        num_classes=num_classes,
        **read_fields(flags),
    )
    for note in loaded.notes:
        console().print(note)
    console().print(f"written to {out}")


def read_fields(flags: Fields | None) -> dict[str, Any]:
    """The fields that were given, with heads such as noun=300 parsed into class counts."""
    fields: dict[str, Any] = {**(flags or {})}
    counts: dict[str, int] = {}
    for head in fields.pop("heads", ()):
        name, _, count = head.partition("=")
        if not count.isdecimal():
            raise UserError(f"heads: {head!r}: give a name and a number of classes, such as noun=300")
        if name in counts:
            raise UserError(f"heads: {name} is named twice")
        counts[name] = int(count)
    return {**fields, "heads": counts} if counts else fields


def _read_classes(files: Sequence[str]) -> list[str] | dict[str, list[str]] | None:
    """The names in one file, or head → the names in its file."""
    if len(files) == 1 and "=" not in files[0]:
        return _read_names(Path(files[0]))
    names = {}
    for file in files:
        head, equals, path = file.partition("=")
        if not equals or head in names:
            raise UserError(f"classes: {file!r}: give one file, or one for each head, such as noun=nouns.txt")
        names[head] = _read_names(Path(path))
    return names or None


def _read_names(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UserError(f"{path}: {reason}") from None
    if not names:
        raise UserError(f"{path}: no class names")
    return names
