"""What longer training of the controls is worth: the control fidelity of each by the pictures that it has seen.

    python -m maxbench run experiment=singles samples=192 suite.root=/tmp/short
    python -m maxbench run experiment=singles samples=192 suite.root=training/weights
    python scripts/compare_controls.py runs/singles-1...=/tmp/short runs/singles-2...=training/weights \\
        --output training/weights/histories/controls.md

(where the card of that family takes it from). The histories of a run's family say how long its controls were trained.
Runs may differ in the weights of their controls alone; a control that two families share is listed once.
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from maxbench.errors import UserError
from maxbench.miniature.generated import read_run
from maxbench.miniature.scaling import require_comparable, scaling_table, trained_controls

TEXT = """\
# Control fidelity by length of training

Written by `scripts/compare_controls.py` on {date} with torch {torch}. {note}

Each control alone on {samples} samples, seed {seed}, {steps} steps, guidance {guidance:g}, control scale {scale:g}: the
share of the way from no control to the VAE reconstruction of the picture that gave the map, with a 95% interval
bootstrapped over samples.

{table}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN=FAMILY", help="finished runs of experiment=singles, and folders"
    )
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--output", type=Path, required=True, help="the page")
    chosen = parser.parse_args(arguments)
    try:
        text = page(dict(map(parted, chosen.runs)), chosen.note)
    except UserError as error:
        print(f"compare_controls: {error}", file=sys.stderr)
        return 2
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(text)
    print(chosen.output)
    return 0


def parted(word: str) -> tuple[Path, Path]:
    """A run and the family that it was made with."""
    run, equals, family = word.partition("=")
    if not equals:
        raise UserError(f"'{word}' names no family; give RUN=FAMILY, the folder of weights that the run was made with.")
    return Path(run), Path(family)


def page(families: Mapping[Path, Path], note: str) -> str:
    """What runs say, each of its family, as Markdown."""
    runs = [read_run(path) for path in families]
    require_comparable(runs)
    controls = [
        each for run, family in zip(runs, families.values(), strict=True) for each in trained_controls(run, family)
    ]
    settings = runs[0].settings
    return TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        torch=torch.__version__,
        samples=settings["samples"],
        seed=settings["seed"],
        steps=settings["sampler"]["steps"],
        guidance=settings["sampler"]["guidance_scale"],
        scale=settings["suite"]["control_scale"],
        note=note,
        table=scaling_table(controls),
    )


if __name__ == "__main__":
    raise SystemExit(main())
