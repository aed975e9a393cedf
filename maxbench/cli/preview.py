"""The command `maxbench data preview`: the first pairs of an experiment as a sheet, before anything is generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from maxbench.cli.command import compose_one, parser_of
from maxbench.configuration.compose import plain
from maxbench.errors import UserError

HELP = """\
usage: maxbench data preview experiment=NAME [key=value ...] [--pairs N] [--output FILE.png]

Draw the first pairs of an experiment: source pictures as they are cut, condition maps, masks, prompts. Settings are
those of `run`. No diffusion model is loaded. Maps come from the store, or are drawn if their annotator's weights are
there, and stay in the store for the run; where the weights are missing the sheet says so.

  --pairs N       how many rows, 8 by default
  --output FILE   a PNG file; preview-NAME.png in output_dir by default
  --config-dir    a folder with configuration of your own
"""
MOST = 64  # rows of a sheet


def preview(words: Sequence[str]) -> int:
    """`maxbench data preview experiment=NAME [key=value ...]`; returns the exit code."""
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    parser = parser_of("data preview")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--output", type=Path)
    parser.add_argument("-cd", "--config-dir", type=Path)
    found = parser.parse_intermixed_args(words)
    if not 1 <= found.pairs <= MOST:
        raise UserError(f"--pairs is {found.pairs}; it must be a whole number from 1 to {MOST}.")
    if found.output is not None and found.output.suffix.lower() != ".png":
        raise UserError(f"--output is {found.output}; give a file that ends with .png.")
    if found.output is not None and (found.output.is_dir() or found.output.parent.is_file()):
        raise UserError(f"--output is {found.output}, where a file cannot be written; give another.")
    path = _draw(compose_one(found.settings, found.config_dir), found.pairs, found.output)
    print(f"preview: {path}")
    return 0


def _draw(cfg: DictConfig, pairs: int, output: Path | None) -> Path:
    """The sheet of a checked configuration; returns where it is."""
    import json
    import tempfile
    from functools import partial

    import torch
    from omegaconf import OmegaConf

    from maxbench.cli.assemble import make_inputs
    from maxbench.cli.batch import AUTO, USUAL
    from maxbench.cli.build import check_regions
    from maxbench.cli.perform import row
    from maxbench.configuration.component import CONDITION, PAIRING, component
    from maxbench.configuration.objects import pick_device
    from maxbench.generation.executors.local import LocalExecutor
    from maxbench.generation.networks import Networks
    from maxbench.report.preview import write_preview
    from maxbench.store.artefacts import Store
    from maxbench.store.runfolder import MANIFEST, RunFolder

    config: dict[str, Any] = plain(cfg)
    if config["runtime"]["threads"]:
        torch.set_num_threads(config["runtime"]["threads"])
    suite = component(config["suite"], "suite")
    conditions = {name: component(each, f"conditions.{name}", CONDITION) for name, each in config["conditions"].items()}
    image_set = component(config["data"], "data")
    pairing = component(config["pairing"], "pairing", PAIRING)
    plan = pairing.plan(image_set, list(conditions), config["samples"], config["seed"])
    check_regions(conditions, plan.samples)
    device = pick_device(config["runtime"]["device"])
    path = output or Path(config["output_dir"]) / f"preview-{config['name']}.png"
    batch = config["runtime"]["batch_size"]
    batch = USUAL if batch == AUTO else batch
    with tempfile.TemporaryDirectory() as place:
        store = Store.open(Path(config["store_dir"]))
        folder = RunFolder.open(Path(place), "preview", {"preview": config["name"]}, store)
        inputs = make_inputs(
            suite, conditions, plan.samples[:pairs], image_set, folder, batch, device,
            LocalExecutor(
                Networks(conditions, device=device, load_annotator=partial(suite.annotator, device=device))
            ),
        )  # fmt: skip
        try:
            inputs.make(drawn=())
            absent = {}
            for name in conditions:
                try:
                    inputs.make(drawn=(name,))
                except UserError as error:  # weights that are not there; a sheet without these maps is of use still
                    absent[name] = str(error)
            inputs.place()
            folder.write("config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
            said = [row(sample) for sample in inputs.samples]
            folder.write(MANIFEST, json.dumps({"samples": said, "methods": []}))
            about = f"{len(said)} of {len(plan.samples)} samples; {image_set.name}, {len(image_set.ids):,} pictures"
            write_preview(folder.path, path, about, absent)
        finally:
            folder.forget()
    for name, why in absent.items():
        print(f"no maps of {name}: {why}")
    return path
