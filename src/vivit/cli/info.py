"""`vivit info`"""

from vivit.cli.command import verb
from vivit.cli.convert import read_fields
from vivit.cli.options import FieldFlags, Source
from vivit.progress import console

app = verb("info", "vivit info run", "vivit info checkpoint --image-size 224")


@app.default
def info(source: Source, /, *, flags: FieldFlags = None) -> None:
    """Show what a model is and where its weights come from.

    With options, show the result that `vivit convert` would write; nothing is written.
    """
    from vivit.weights.describe import describe_source

    before = ""
    for name, value in describe_source(source, **read_fields(flags)):
        console().print(f"{'' if name == before else name:15s}{value}")
        before = name
