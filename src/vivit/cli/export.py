"""`vivit export`"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import CLIPS, INPUT, OUTPUT
from vivit.cli.predict import stopping
from vivit.progress import console

app = verb(
    "export",
    "vivit export run exported",
    "vivit export run exported --clips my_videos",
    "vivit export run small --int8 --clips my_videos",
)


@app.default
@stopping(lambda: "stopped")
def export(
    model: Annotated[str, Parameter(group=INPUT)],
    out: Annotated[Path, Parameter(group=OUTPUT)],
    /,
    *,
    format: Annotated[
        Literal["onnx", "openvino", "torch-export", "aotinductor"] | None, Parameter(group=OUTPUT, metavar="NAME")
    ] = None,
    int8: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False,
    input: Annotated[Literal["uint8", "float32"], Parameter(group=OUTPUT, metavar="TYPE")] = "uint8",
    overwrite: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False,
    clips: Annotated[tuple[str, ...], Parameter(group=CLIPS, metavar="VIDEO…", consume_multiple=True)] = (),
) -> None:
    """Write a model for ONNX Runtime, OpenVINO, torch.export or AOTInductor.

    The folder also has class names and preprocessing, so vivit predict and vivit evaluate take it as --model. A report
    in it says how far the file's answers, in its own runtime, are from PyTorch's.

    Args:
        model: A model folder, a run, or a Hub id.
        out: The folder to write, which must not exist yet.
        format: By default onnx, or with --int8 openvino.
        int8: Quantise to 8 bits, calibrated on --clips.
        input: The input of the exported file: pixels as uint8, or floats in [-1, 1].
        overwrite: Replace OUT if it is an exported model.
        clips: Videos, folders or quoted patterns for calibration and comparison. Without them, the comparison uses
            random noise.
    """
    from vivit.inference.export import export
    from vivit.weights.exported import FILES

    say = console().print
    format = format or ("openvino" if int8 else "onnx")
    parity = export(model, out, format, input=input, int8=int8, clips=clips, overwrite=overwrite, say=say)
    size = sum(file.stat().st_size for file in out.glob(f"{Path(FILES[format]).stem}.*"))
    say(f"parity: {parity}")
    say(f"written to {out}: {FILES[format]}, {size / 1e6:.1f} MB, takes any number of clips of {input}")
