"""What merging tokens saves in time and costs in accuracy, for several fractions of merged tokens.

    .venv/bin/python -m benchmarks.token_merging [--variants spatiotemporal] [--ratios 0.25,0.5,0.75,0.9] [--rounds 3]
    .venv/bin/python -m benchmarks.token_merging --data VIDEOS [--model camera-motion] [--clips FOLDER]

Without `--data`, it measures the forward pass of ViViT-B/16x2 on one clip of 32 × 224 × 224, with random weights and
noise, which merging treats like any video: it always merges the same number of tokens. The ratios take turns.

With `--data`, a model labels videos with known classes, from one view of each. "Agreement" is the fraction of videos
whose best label is the same as without merging. `--clips` is a folder of videos without classes; agreement there is
over windows that start every 8 frames. `vivit experiment camera-motion --score camera-motion --out OUT` leaves the
videos of the camera-motion model in OUT/footage.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import cyclopts
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.contenders import QUICK
from vivit.config import ModelConfig, Variant
from vivit.data.loader import evaluation_views
from vivit.data.readers.folders import find_videos
from vivit.data.readers.listing import open_data
from vivit.experiments.record import commit
from vivit.inference.merging import AXES, Merge, merge_tokens
from vivit.inference.prepare import prepare
from vivit.inference.speed import Seconds, spread, take_turns, time_of
from vivit.inference.streaming import windows
from vivit.inference.views import clip_spec, mean_logits
from vivit.labels import ONLY_HEAD
from vivit.model.vivit import ViViT
from vivit.runtime import Precision
from vivit.video.decode import open_video
from vivit.weights.shipped import CAMERA_MOTION
from vivit.weights.store import labels_of, load

CPU = torch.device("cpu")
STEP = 8  # frames from window to window
BATCH = 16  # videos

Row = dict[str, Any]


def time_rows(variant: Variant, precision: Precision, ratios: Sequence[float], rounds: int, quick: bool) -> list[Row]:
    """A row for each axis and ratio."""
    torch.manual_seed(0)
    fields = {"num_frames": 32, "image_size": 224, **(QUICK if quick else {})}
    config = ModelConfig.named("vivit-b-16x2", variant=variant, **fields)
    model = ViViT(config).eval()
    prepare(model, "cpu", precision)
    clip = torch.randint(0, 256, (1, config.num_frames, 3, *config.image_size), dtype=torch.uint8)

    def run(merge: Merge) -> Seconds:
        merge_tokens(model, merge)
        with torch.inference_mode():
            return time_of(lambda: model(clip), CPU)

    merges = [Merge(), *(Merge(ratio, over) for over in AXES[variant] for ratio in ratios)]
    taken = take_turns({merge: partial(run, merge) for merge in merges}, rounds)
    rows = []
    for merge, seconds in taken.items():
        whole = taken[Merge()]
        rows.append(
            {
                "what": "time",
                "variant": variant,
                "precision": precision,
                "over": merge.over,
                "ratio": merge.ratio,
                "seconds": spread([each.clock for each in seconds]),
                "faster": median(one.clock / each.clock for one, each in zip(whole, seconds, strict=True)),
                "less processor time": median(
                    one.processor / each.processor for one, each in zip(whole, seconds, strict=True)
                ),
            }
        )
    return rows


def accuracy_rows(source: str, data: Path, clips: Path | None, ratios: Sequence[float]) -> list[Row]:
    """A row for each axis and ratio: the accuracy on labelled videos, and the agreement with the unmerged model."""
    model = load(source).eval()
    variant = model.config.variant
    videos = open_data(data).split("all", labels_of(model, source))
    truth = torch.tensor([videos.labels.numbers[ONLY_HEAD][video.labels[ONLY_HEAD][0]] for video in videos.videos])
    merges = [Merge(), *(Merge(ratio, over) for over in AXES[variant] for ratio in ratios)]
    answers: dict[Merge, list[Tensor]] = {merge: [] for merge in merges}
    views = evaluation_views(videos.videos, clip_spec(model), 1, 1)
    readable = (some for some in views if isinstance(some, Tensor))
    while batch := list(itertools.islice(readable, BATCH)):
        for merge, found in answers.items():
            merge_tokens(model, merge)
            found.append(mean_logits(model, batch)[ONLY_HEAD])
    best = {merge: torch.cat(found).argmax(dim=1) for merge, found in answers.items()}
    seen = {merge: torch.tensor(list(best_of_windows(model, merge, clips))) for merge in merges}
    return [
        {
            "what": "accuracy",
            "model": source,
            "variant": variant,
            "over": merge.over,
            "ratio": merge.ratio,
            "videos": len(truth),
            "accuracy": (best[merge] == truth).double().mean().item(),
            "agreement": (best[merge] == best[Merge()]).double().mean().item(),
            "windows": len(seen[merge]),
            **({"agreement of windows": (seen[merge] == seen[Merge()]).double().mean().item()} if clips else {}),
        }
        for merge in merges
    ]


def best_of_windows(model: ViViT, merge: Merge, clips: Path | None) -> Iterator[int]:
    merge_tokens(model, merge)
    for path in find_videos(str(clips)).videos if clips is not None else []:
        with open_video(path) as video:
            frames = video.frames(range(video.info.num_frames), short_side=model.preprocessing.resize)
        for window in windows(model, [frames], STEP):
            yield int(window.logits[ONLY_HEAD].argmax())


def line(row: Row) -> str:
    kind = f"| {row['variant'].replace('_', ' ')} | {row['over'] or ''} | {row['ratio']:g} |"
    if row["what"] == "time":
        seconds = row["seconds"]["median"]
        return f"{kind} {row['precision']} | {seconds:.3g} | {row['faster']:.2f} | {row['less processor time']:.2f} |"
    windowed = f"{row['agreement of windows']:.1%}" if "agreement of windows" in row else ""
    return f"{kind} {row['accuracy']:.1%} | {row['agreement']:.1%} | {windowed} |"


def main(
    variants: str = ",".join(get_args(Variant)),
    ratios: str = "0.25,0.5,0.75,0.9",
    precisions: str = "f32,bf16",
    rounds: int = 3,
    threads: int | None = None,
    data: Path | None = None,
    model: str = CAMERA_MOTION,
    clips: Path | None = None,
    quick: bool = False,
    out: Path = harness.RESULTS / "token_merging.json",
) -> None:
    """Measure, print a table in Markdown, and write a record, which keeps its rows of the other kind.

    Args:
        variants: to time, separated by commas.
        ratios: fractions of the tokens, separated by commas.
        precisions: to time, separated by commas.
        rounds: measurements of each time.
        threads: of PyTorch; by default its own choice.
        data: labelled videos: measure accuracy instead of time.
        model: the model whose accuracy is measured.
        clips: a folder of other videos, for agreement.
        quick: a toy model, to check that it works.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    parts, load_before = [float(ratio) for ratio in ratios.split(",")], os.getloadavg()[0]
    began_at = commit()
    print(f"{harness.setting()}\n{torch.get_num_threads()} threads; load before: {load_before:.1f}.\n")
    rows: list[Row] = []
    if data is not None:
        print("| variant | over | merged | accuracy | agreement | agreement of windows |\n|---|---|---|---|---|---|")
        rows = accuracy_rows(model, data, clips, parts)
        print(*map(line, rows), sep="\n")
    else:
        print("| variant | over | merged | precision | s | × faster | × less processor time |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for variant, precision in itertools.product(variants.split(","), precisions.split(",")):
            some = time_rows(variant, precision, parts, rounds, quick)  # type: ignore[arg-type]
            print(*map(line, some), sep="\n", flush=True)
            rows += some
    kept = [row for row in harness.read(out)["values"]["rows"] if row["what"] != rows[0]["what"]]
    task = {"threads": torch.get_num_threads(), "quick": quick}
    rows = [*kept, *({**row, "commit": began_at} for row in rows)]
    harness.write(out, {"task": task, "load": load_before, "rows": rows})


if __name__ == "__main__":
    cyclopts.run(main)
