"""`vivit info`"""

from vivit.cli.command import verb
from vivit.cli.convert import read_heads
from vivit.cli.options import AttentionOrder, Heads, ImageSize, NumFrames, SampledFrames, Source, VariantOfWeights

app = verb("info", "vivit info run", "vivit info checkpoint --image-size 224")


@app.default
def info(
    source: Source,
    /,
    *,
    variant: VariantOfWeights = None,
    attention_order: AttentionOrder = None,
    heads: Heads = (),
    num_frames: NumFrames = None,
    image_size: ImageSize = None,
    sampled_frames: SampledFrames = None,
) -> None:
    """Show what a model is and where its weights come from.

    With options, show what `vivit convert` would make of it; nothing is written.
    """
    from vivit.weights.describe import describe_source

    about = describe_source(
        source,
        variant=variant,
        num_frames=num_frames,
        image_size=image_size,
        sampled_frames=sampled_frames,
        attention_order=attention_order,
        heads=read_heads(heads),
    )
    before = ""
    for name, value in about:
        print(f"{'' if name == before else name:15s}{value}")
        before = name
