"""Train the miniature family: python scripts/train_miniature.py [only=[unet]] [parts.vae.recipe.steps=900] ...

Settings are those of conf/training.yaml, where they are explained; recipes are in conf/component/. Every part resumes
from its checkpoint and is skipped once finished. When the last one is finished the family is measured on held-out
scenes and its model card is written beside the weights.
"""

import sys
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.miniature.card import write_card
from maxbench.miniature.context import keys_of, read_history, train, world_of


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="training")
def main(cfg: DictConfig) -> None:
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    parts = instantiate(cfg.parts, _convert_="all")
    weights, folder = Path(cfg.weights), Path(cfg.folder)
    try:
        version = world_of(weights) if cfg.world is None else cfg.world
        data = {"scenes": cfg.scenes, "size": cfg.size, "seed": cfg.seed, "version": version}
        names = parts if cfg.only is None else cfg.only
        how = {"device": cfg.device, "shorten": cfg.shorten, "compile": cfg.compile}
        train(parts, names, weights=weights, folder=folder, **how, **data)
        keys = keys_of(parts, [cfg.scenes, cfg.size, cfg.seed], version)
        if cfg.card and all(read_history(weights, name).get("key") == key for name, key in keys.items()):
            write_card(weights, folder, list(parts), note=cfg.note, **data)
    except UserError as error:
        print(f"train_miniature: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
