"""The verb `tables`: the tables of finished runs once more, those of several as one, or with other baselines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from maxbench.cli.failures import say_failure
from maxbench.errors import UserError
from maxbench.report.runs import DIFFERENCES, METRICS, Results, find
from maxbench.report.tables import difference_table, marked, plain_table, read_latex, read_tables


def tables(
    folders: Sequence[str],
    output_dir: str = "runs",
    pooled: bool = False,
    output: str | None = None,
    baselines: Sequence[str] = (),
    latex: bool = False,
) -> int:
    """Print the tables of some run folders, or of all in `output_dir`; one that is damaged does not hide the others.

    pooled: write one result of all of them instead, into the folder `output`. baselines: print differences to these.
    latex: print what answers the question as tables of booktabs, and nothing else.
    """
    if latex and (pooled or baselines):
        raise UserError("--latex prints the methods' table; leave out --pool and --baseline, or see `compare --latex`.")
    if pooled:
        return _pool(folders, output_dir, output, baselines)
    if output is not None:
        raise UserError(f"--output {output} goes with --pool; without it nothing is written.")
    paths = find(folders, output_dir)
    failed = 0
    for path in paths:
        try:
            text = read_latex(path) if latex else against(path, baselines) if baselines else read_tables(path).text
        except UserError as error:
            if len(paths) == 1:
                raise
            failed = say_failure(error)
            continue
        print(f"% {path}\n{text}\n" if latex else f"{path}\n\n{text}\n")
    return failed


def _pool(folders: Sequence[str], output_dir: str, output: str | None, baselines: Sequence[str]) -> int:
    from maxbench.cli.pool import pool  # torch, which printing tables does without

    if baselines:
        raise UserError("--baseline prints and --pool writes; pool first, then name the pooled folder with --baseline.")
    return pool(find(folders, output_dir) if folders else [], None if output is None else Path(output))


def against(folder: Path, baselines: Sequence[str]) -> str:
    """A run's tables with the differences to other rows, as plain text; nothing is written into the run."""
    from maxbench.cli.pool import read_config, read_state, tables_of

    if len(set(baselines)) < len(baselines):
        raise UserError(f"--baseline names a row twice: {', '.join(baselines)}.")
    made = tables_of(read_state(folder), read_config(folder), baselines)
    given = {name: _as_read(table) for name, table in ((METRICS, made.metrics()), (DIFFERENCES, made.differences()))}
    parts = [read_tables(Results(folder, given)).text]
    _, differences = marked(given[METRICS], given[DIFFERENCES])
    parts.append(
        "Paired differences on the same samples and noise. **Shown** after Holm's correction for the "
        f"{int(differences.comparisons.iloc[0])} comparisons of these tables."
    )
    for baseline, group in differences.groupby("baseline", sort=False):
        parts += [f"Minus {baseline}:", plain_table(*difference_table(group))]
    return "\n\n".join(parts)


def _as_read(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is when it comes from a file."""
    return pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype={"condition": str})
