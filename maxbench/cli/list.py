"""The verb `list`: every run of a folder in one line."""

from __future__ import annotations

from pathlib import Path

from maxbench.errors import UserError
from maxbench.report.formats import plain_table
from maxbench.report.listing import Listed, as_table, listed

LONGEST = 60
"""Characters of what differs, in a line of the terminal."""


def list_runs(output_dir: str = "runs", csv: bool = False) -> int:
    """Print what lies in `output_dir`; csv: for programs, with every column. One that is damaged hides no other."""
    place = Path(output_dir)
    if not place.is_dir():
        raise UserError(f"There is no folder {place}/; run an experiment, or say where runs are with --output-dir.")
    runs = listed(place)
    if csv:
        print(as_table(runs).to_csv(index=False), end="")
        return 0
    if not runs:
        print(f"There is no run in {place}/ yet; begin with `python -m maxbench run experiment=hed_depth`.")
        return 0
    print(plain_table(HEADINGS, [_line(each) for each in runs]))
    for each in runs:
        if each.why:
            print(f"\n{each.name}, {each.state}: {each.why}")
    print("\nA run is meant by its name here, by the beginning of its folder's name, or by that name's last digits.")
    return 0


HEADINGS = ("name", "run", "seed", "samples", "delta", "state", "when", "size", "differs in")


def _line(each: Listed) -> list[str]:
    when = each.at.strftime("%Y-%m-%d %H:%M") if each.at else "-"
    samples = "-" if each.samples is None else str(each.samples)
    if each.replicates not in (None, 1):
        samples += f" x {each.replicates}"
    differs = " ".join(f"{key}={value}" for key, value in each.differs.items()) or "-"
    if len(differs) > LONGEST:
        differs = f"{differs[:LONGEST]}… (--csv has it whole)"
    return [
        each.name, each.run, each.seed or "-", samples, each.delta or "-", each.state, when, size(each.bytes), differs
    ]  # fmt: skip


def size(count: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
