"""Train the miniature family: python scripts/train_miniature.py [--parts vae unet ...].

Every part resumes from its checkpoint and is skipped once finished. When the last one is there the family is
measured on held-out scenes and its model card is written beside the weights.
"""

import argparse
from pathlib import Path

from maxbench.miniature.card import write_card
from maxbench.miniature.corpus import TRAIN_SEED
from maxbench.miniature.recipes import PARTS, SCENES, train_parts

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--weights", type=Path, default=Path("maxbench/suites/weights/miniature"))
    parser.add_argument("--folder", type=Path, default=Path("training"), help="checkpoints, corpus, histories")
    parser.add_argument("--seed", type=int, default=TRAIN_SEED)
    parser.add_argument("--scenes", type=int, default=SCENES, help="training scenes to render")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shorten", type=float, default=1.0, help="multiply every part's steps")
    parser.add_argument("--note", default="", help="a sentence for the model card, such as a departure from the recipe")
    arguments = vars(parser.parse_args())
    note = arguments.pop("note")
    train_parts(**arguments)
    weights, folder = arguments["weights"], arguments["folder"]
    if all((folder / f"{part}.history.json").exists() for part in PARTS):
        write_card(weights, folder, seed=arguments["seed"], scenes=arguments["scenes"], note=note)
