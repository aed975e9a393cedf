"""Hold the U-Nets of several families against each other, before any control is trained on them.

    python scripts/train_miniature.py only=[unet] parts.unet.recipe.steps=1500 weights=/tmp/a folder=/tmp/a-work
    python scripts/train_miniature.py only=[unet] parts.unet.recipe.steps=1500 weights=/tmp/b folder=/tmp/b-work ...
    python scripts/compare_generators.py /tmp/a /tmp/b --output maxbench/suites/weights/miniature-3/histories/trials

(where the card of that family takes it from). A folder to train in is a copy of one that holds what the U-Net needs:
vae, text encoder, tokenizer and histories; a trial in the folder of a real training would be its first steps.

writes trials.md and trials.csv: how each was trained, its loss on held-out scenes, the distance of its pictures from
real ones and how often the solid in a picture is of the kind that its prompt names.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPConfig
from transformers.utils import logging as transformers_logging

from maxbench.errors import UserError
from maxbench.miniature.context import world_of
from maxbench.miniature.corpus import VALIDATION_SEED, render_corpus
from maxbench.miniature.generated import DRAWS, FLOOR, pictures_table
from maxbench.miniature.quality import load_map_networks, tidy
from maxbench.miniature.trials import (
    LOSS_BATCHES,
    Sampling,
    compare_generators,
    recipe_of,
    require_generator,
    require_judges,
)
from maxbench.models.files import digest_of
from maxbench.suites.folder import PACKAGED

TEXT = """\
# U-Nets of the miniature, before any control

Written by `scripts/compare_generators.py` on {date} with torch {torch}. {note}

{recipes}

On {scenes} scenes of version {world} of the world (seed {seed}) that no part was trained on, in float32; DDIM, {steps}
steps, guidance {guidance:g}, the same noise for all. The loss is the plain one, min(SNR, 5) on the error of the clean
latents, so one quantity whatever is predicted and was trained with: its mean over {batches} batches of the same draws,
with a bootstrapped 95% interval over batches.
*A wrong kind adds*: by how much that loss grows, of prompts that name one solid, where the prompt names another kind,
with the same noise; 0 for a U-Net that does not read the kind.
FD-CLIP: half of the scenes against the pictures of the other half, and in brackets the spread over {draws} splits;
*real* is the floor. Kind recognised: of the prompts that name one solid, how often the scorer calls the most pixels of
a solid by that kind. Features by `{clip}`, kinds by `{scorer}`.

{table}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", type=Path, nargs="+", help="folders with a trained U-Net each")
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--scorer", type=Path, default=None, help="the family whose map scorer reads; the first")
    parser.add_argument("--clip", type=Path, default=PACKAGED / "miniature/scorers/clip", help="CLIP of all")
    parser.add_argument("--folder", type=Path, default=Path("training"), help="where rendered scenes are kept")
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--output", type=Path, required=True, help="the page and the table, without their endings")
    chosen = parser.parse_args(arguments)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        write(chosen)
    except UserError as error:
        print(f"compare_generators: {error}", file=sys.stderr)
        return 2
    return 0


def write(chosen: argparse.Namespace) -> None:
    """Measure, and write the page and the table."""
    families = {path.name: path for path in chosen.families}
    if len(families) < len(chosen.families):
        raise UserError("Two families have folders of one name; rename one, since the table names them so.")
    if FLOOR in families:
        raise UserError(f"A family is called '{FLOOR}', as the real pictures are; rename its folder.")
    if chosen.scenes < 4:
        raise UserError(f"--scenes is {chosen.scenes}; give at least 4, which are split into halves.")
    scorer = chosen.scorer or chosen.families[0]
    require_judges(scorer, chosen.clip)
    for weights in families.values():
        require_generator(weights)
    recipes = {name: recipe_of(weights) for name, weights in families.items()}
    worlds = {name: world_of(weights) for name, weights in families.items()}
    if len(set(worlds.values())) > 1:
        said = ", ".join(f"{name} {world}" for name, world in worlds.items())
        raise UserError(f"The families know different versions of the world ({said}); compare those of one.")
    looks, world = load_map_networks(scorer), next(iter(worlds.values()))
    size = CLIPConfig.from_pretrained(chosen.clip).vision_config.image_size
    corpus = render_corpus(chosen.scenes, VALIDATION_SEED, size, chosen.folder, world)
    sampling = Sampling(chosen.steps, chosen.guidance)
    measures = compare_generators(
        families, corpus, looks["scorer"], chosen.clip, sampling, chosen.folder / f"latents-of-{corpus.name}"
    )
    columns = list(next(iter(recipes.values())))
    lines = [["family", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(f"{value:,}" if isinstance(value, int) else str(value) for value in recipe.values())]
              for name, recipe in recipes.items()]  # fmt: skip
    text = TEXT.format(
        date=datetime.now(UTC).date().isoformat(), torch=torch.__version__, note=chosen.note,
        recipes="\n".join(f"| {' | '.join(line)} |" for line in lines), scenes=len(corpus), seed=VALIDATION_SEED,
        steps=chosen.steps, guidance=chosen.guidance, batches=LOSS_BATCHES, draws=DRAWS, world=world,
        clip=named(chosen.clip), scorer=named(scorer / "scorers" / "maps"), table=pictures_table(measures),
    )  # fmt: skip
    page, table = (chosen.output.parent / f"{chosen.output.name}{ending}" for ending in (".md", ".csv"))
    page.parent.mkdir(parents=True, exist_ok=True)
    tidy(measures).to_csv(table, index=False)
    page.write_text(text)
    print(page, table, sep="\n")


def named(weights: Path) -> str:
    """A network by what it is: its folder's last names and the beginning of its digest, as tables name a scorer."""
    return f"{'/'.join(weights.parts[-2:])}@{digest_of(weights)[:8]}"


if __name__ == "__main__":
    raise SystemExit(main())
