"""The verb `tables`: the tables of finished runs once more, from their metrics.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maxbench.cli.failures import say_failure
from maxbench.errors import UserError
from maxbench.report.tables import read_tables


def tables(folders: Sequence[str], output_dir: str = "runs") -> int:
    """Print the tables of some run folders, or of all in `output_dir`; one that is damaged does not hide the others."""
    paths = [Path(folder) for folder in folders] or sorted(
        path.parent for path in Path(output_dir).glob("*/metrics.csv")
    )
    if not paths:
        raise UserError(f"There is no finished run in {output_dir}/; run one, or name its folder.")
    failed = 0
    for path in paths:
        try:
            text = read_tables(path).text
        except UserError as error:
            if len(paths) == 1:
                raise
            failed = say_failure(error)
            continue
        print(f"{path}\n\n{text}\n")
    return failed
