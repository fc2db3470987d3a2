"""The folder of a run of the paper's tables, which several machines may share.

FOLDER/videos          the motion benchmark
FOLDER/results/*.json  a record for each finished cell: the only source of tables and plots
FOLDER/pretrained/KEY  a run of `vivit pretrain` that several cells start from
FOLDER/cells/CELL      a cell at work: lock.json names its process; run/ is its training
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vivit.errors import UserError
from vivit.experiments.paper.cells import Cell, Pretrained
from vivit.files import make_folder
from vivit.training.lock import InUse, RunLock
from vivit.weights.files import read_json


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Cell key → its record, of all records in a folder. Raises UserError if one is damaged."""
    records = {}
    for file in sorted(folder.glob("*.json")):
        record = read_json(file)
        if not isinstance(record.get("values"), dict) or "key" not in record["values"]:
            raise UserError(f"{file}: is no record of a cell; delete it, and the cell will run again")
        records[record["values"]["key"]] = record
    return records


class PaperFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.videos, self.results, self.cells = path / "videos", path / "results", path / "cells"

    def pretrained(self, start: Pretrained) -> Path:
        return self.path / "pretrained" / start.key

    def result(self, cell: Cell) -> Path:
        return self.results / f"{cell.name}.json"

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[Path | None]:
        """The folder to run a cell in; None if another process has it or has finished it.

        A stopped process's folder is returned as it is; it is deleted once the cell has its result.
        """
        work = self.cells / cell.key
        for each in (work, self.results):
            make_folder(each)
        try:
            lock = RunLock(work, lambda words: None)
        except InUse:
            yield None
            return
        try:
            # Another process may have finished the cell since the results were read.
            yield None if self.is_done(cell) else work
        finally:
            lock.release()
            if self.is_done(cell):
                shutil.rmtree(work, ignore_errors=True)

    def is_done(self, cell: Cell) -> bool:
        return any(self.results.glob(f"*-{cell.key}.json"))
