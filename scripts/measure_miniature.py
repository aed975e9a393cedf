"""How good the miniature family is: its parts by themselves, its pictures, and how far its controls are followed.

    python -m maxbench run experiment=singles samples=1000
    python scripts/measure_miniature.py --write-untrained /tmp/untrained
    python -m maxbench run experiment=singles samples=1000 suite.root=/tmp/untrained methods.single.branches=[depth]
    python scripts/measure_miniature.py --run runs/singles-... --untrained runs/singles-...

writes results/miniature/quality.md and quality.csv. The second and third command make the bad anchor, a U-Net that has
learned nothing: only its `none` is used, the one control is there because a run compares. Without --untrained, and
without --run, the tables that need them are left out.
"""

import argparse
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPConfig
from transformers.utils import logging as transformers_logging

from maxbench.errors import UserError
from maxbench.miniature.bars import bars_of, bars_table
from maxbench.miniature.context import world_of
from maxbench.miniature.corpus import VALIDATION_SEED, render_corpus
from maxbench.miniature.generated import (
    DRAWS,
    ControlFidelity,
    FinishedRun,
    agreement_on,
    control_fidelity_of,
    control_fidelity_table,
    pictures_table,
    quality_of_pictures,
    read_run,
    require_same_weights,
    text_fidelity,
    write_untrained,
)
from maxbench.miniature.quality import Measure, load_map_networks, measure_parts, parts_tables, require, tidy
from maxbench.models.files import digest_of
from maxbench.suites.folder import PACKAGED

PARTS = """\
# How good the miniature family is

Written by `scripts/measure_miniature.py` on {date} with torch {torch}; intervals are 95% and in brackets. These are
numbers about a rendered world, not about photographs.

## Bars

What the family is asked to reach; a bar counts as met by its value, whatever its interval.

{bars}

## Parts by themselves

On {scenes} scenes of version {world} of the world (seed {seed}) that no part was trained on. *VAE reconstructions* are
renderings after the autoencoder. Annotator and scorer are compared with the renderer's exact maps, and with each other;
depth *fitted* is after a fit of scale and shift in every picture, as the benchmark measures it. Intervals are
bootstrapped over scenes.

{tables}
"""

PICTURES = """
## Pictures

Run `{name}`: {samples} samples, seed {seed}, {steps} steps, guidance {guidance:g}; features and CLIP score by
{scorer}.

FD-CLIP grows as N shrinks, so only distances at one N can be compared. In the first column every set has {size}
pictures: all real ones are split into two random halves {draws} times, and the second half is what the pictures of the
first half's samples are held against; the brackets are the spread over these draws. *Floor* is the first half itself:
two sets of real pictures differ by as much. {anchor}*FD-CLIP of the run* is that of its own table, over all of its
samples against {protocol}: another N, and so another floor.

{table}

Text fidelity: of the samples whose prompt names one solid, the share of pictures in which the scorer calls the most
pixels of a solid by that kind. Real pictures and VAE reconstructions of the samples' sources say how well it reads.

{kinds}
"""

ANCHOR = """*Untrained* is the same sampler on a U-Net with random weights; the share of the way is from it to the
floor. """

CONTROLS = """
## Controls

Each control alone, without any other: scores of samples, averaged. *Shuffled* is a real picture under another
sample's map, *none* is text alone, and the VAE reconstruction of the very picture that gave the map is the best that
this family can score. *Share closed* is how much of the way from none to that ceiling the control goes, with an
interval bootstrapped over samples. Where a score is given twice, the first is by the independent scorer and the second
by the annotator that also drew the maps.

{table}

## Do annotator and scorer agree on generated pictures?

Annotator and scorer on the same pictures, the scorer's maps held against the annotator's. Where they agree on generated
pictures as they do on VAE reconstructions (above), a picture does not follow its map by fooling one of them.

{agreement}
"""


def measure(chosen: argparse.Namespace) -> None:
    """Write quality.md and quality.csv."""
    require(chosen.weights)
    runs = [read_run(path) for path in (chosen.run, chosen.untrained) if path is not None]
    if chosen.run is not None:  # what can be wrong is found before anything long is begun
        require_same_weights(runs[0], chosen.weights, digest_of, "give --weights the family that it was made with")
    world = world_of(chosen.weights)
    corpus = render_corpus(chosen.scenes, VALIDATION_SEED, resolution(chosen.weights), chosen.folder, world)
    measures = measure_parts(chosen.weights, corpus)
    date = datetime.now(UTC).date().isoformat()
    tables, sections, controls = parts_tables(measures), "", []
    if runs:
        more, sections, controls = of_run(chosen.weights, *runs)
        measures += more
    text = PARTS.format(
        date=date,
        torch=torch.__version__,
        scenes=len(corpus),
        seed=VALIDATION_SEED,
        world=world,
        bars=bars_table(bars_of(measures, controls)),
        tables=tables,
    )
    text += sections
    chosen.output.mkdir(parents=True, exist_ok=True)
    tidy(measures).to_csv(chosen.output / "quality.csv", index=False)
    (chosen.output / "quality.md").write_text(wrapped(text))
    print(chosen.output / "quality.md", chosen.output / "quality.csv", sep="\n")


def of_run(
    weights: Path, run: FinishedRun, untrained: FinishedRun | None = None
) -> tuple[list[Measure], str, list[ControlFidelity]]:
    """What a run says, as numbers and as the text of its sections, and how far each control is followed."""
    pictures, fidelity = quality_of_pictures(run, untrained), control_fidelity_of(run)
    networks = load_map_networks(weights)
    agreement, told = agreement_on(run, networks), text_fidelity(run, networks["scorer"])
    distance, sampler = run.line("fd_clip", "none"), run.settings["sampler"]
    text = PICTURES.format(
        name=run.path.resolve().name,
        samples=run.settings["samples"],
        seed=run.settings["seed"],
        steps=sampler["steps"],
        guidance=sampler["guidance_scale"],
        scorer=distance.scorer,
        size=pictures[0].interval.n,
        draws=DRAWS,
        anchor=ANCHOR if untrained else "",
        protocol=distance.protocol,
        table=pictures_table(pictures),
        kinds=pictures_table(told),
    ) + CONTROLS.format(table=control_fidelity_table(fidelity), agreement=parts_tables(agreement))
    return (
        [*pictures, *told, *(each for control in fidelity for each in control.measures()), *agreement],
        text,
        fidelity,
    )


def wrapped(text: str) -> str:
    """Markdown with its paragraphs, but not its headings and tables, wrapped anew after numbers have filled them."""
    blocks = text.strip().split("\n\n")
    return "\n\n".join(each if each[0] in "|#" else textwrap.fill(each, 118) for each in blocks) + "\n"


def resolution(weights: Path) -> int:
    """Pixels a side of the pictures that the family knows."""
    return CLIPConfig.from_pretrained(weights / "scorers" / "clip").vision_config.image_size


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="finished run of experiment=singles")
    parser.add_argument("--untrained", type=Path, help="the same of a family with an untrained U-Net")
    parser.add_argument("--weights", type=Path, default=PACKAGED / "miniature", help="the family")
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes to measure the parts on")
    parser.add_argument("--folder", type=Path, default=Path("training"), help="where rendered scenes are kept")
    parser.add_argument("--output", type=Path, default=Path("results/miniature"))
    parser.add_argument("--write-untrained", type=Path, metavar="FOLDER", help="write such a family, and no more")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained U-Net")
    chosen = parser.parse_args(arguments)
    if chosen.untrained and not chosen.run:
        parser.error("--untrained is compared with --run: give both")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    diffusers_logging.set_verbosity_error()  # the libraries' hints and bars are not ours to show
    transformers_logging.disable_progress_bar()
    try:
        if chosen.write_untrained:
            write_untrained(chosen.weights, chosen.write_untrained, chosen.seed)
            print(chosen.write_untrained)
        else:
            measure(chosen)
    except UserError as error:
        print(f"measure_miniature: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
