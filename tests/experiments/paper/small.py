"""A run of every kind of cell at a size that takes seconds; as a module, a process of such a run."""

import sys
from dataclasses import replace
from pathlib import Path

from tests.support import REFERENCE
from vivit.experiments.motion_benchmark import BenchmarkSettings
from vivit.experiments.paper.cells import Scale, Table
from vivit.experiments.paper.comparisons import all_tables, image_patch
from vivit.experiments.paper.folder import PaperFolder
from vivit.experiments.paper.schedule import Job, run

IMAGE_VIT = str(REFERENCE / "image_init" / "vit32" / "vit.npz")
SCALE = Scale(
    "small",
    seeds=1,
    rates=1,
    benchmark={"train_videos": 20, "val_videos": 4, "test_videos": 4, "size": (64, 48)},
    steps=1 / 100,
    smaller={"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_dim": 16},
)


def tables() -> list[Table]:
    """Tables of a single row: from an image ViT, from scratch, on little data, with several views, and pretrained."""
    kinds = {"table1": -1, "table2": 0, "table4": -1, "figure9": 0, "pretraining": 1}
    return [
        replace(table, rows=(table.rows[kinds[table.key]],), claims=())
        for table in all_tables(image_patch(IMAGE_VIT))
        if table.key in kinds
    ]


def job(folder: Path) -> Job:
    benchmark = BenchmarkSettings(**SCALE.benchmark)
    return Job(PaperFolder(folder), tables(), SCALE, benchmark, IMAGE_VIT, device="cpu")


if __name__ == "__main__":
    run(job(Path(sys.argv[1])), 1e9)
