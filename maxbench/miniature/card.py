"""The model card of a trained family: what it was made from, how it was trained, and how good its parts are."""

from __future__ import annotations

import math
import os
import platform
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from maxbench.errors import UserError
from maxbench.miniature.context import HISTORIES, read_history
from maxbench.miniature.controls import CANNY_THRESHOLDS
from maxbench.miniature.corpus import DROPS, VALIDATION_SEED, WORLD_VERSION, render_corpus
from maxbench.miniature.diffusion import MIN_SNR, UNPROMPTED, prediction_of
from maxbench.miniature.quality import measure_parts, parts_tables

PAGES = ("trials.md", "controls.md")
"""What scripts/compare_generators.py and scripts/compare_controls.py have written, kept with the histories."""
STRIDE = 100  # steps whose mean loss is one number of a history
ACROSS = 4  # panels in a row of the picture of losses
WIDE = 2.5  # a curve that spans a larger factor than this is drawn on a logarithmic scale

CARD = """\
---
library_name: diffusers
pipeline_tag: text-to-image
---

# The maxbench miniature family

A narrow Stable Diffusion and its controls that live in a rendered world of a few solids. It exists so that the
whole benchmark can be run anywhere; it knows nothing of photographs.

- **Data**: {scenes} rendered scenes of {size} x {size} pixels, version {version} of the world, training seed {seed},
  {captions} captions each. Measured on {held_out} scenes of seed {held_out_seed}, which no part was trained on.
- **Training**: `python scripts/train_miniature.py`; every part by itself, bfloat16 autocast, AdamW with warm-up and
  cosine decay. The weights are stored in half precision.
{tasks}
- **Hardware**: trained on {devices}. Measured on {hardware}; PyTorch {torch}.
- **Date**: {date}, of this card.{note}

## Training

{training}

{total:.1f} MB in all, with tokenizers and schedules. A loss is the mean of {stride} steps (of the rest, at the end);
losses of different parts are different quantities. Minutes are wall clock on a shared machine.

![Loss of every part over its steps](losses.png)

## Quality

Measured on {held_out} held-out scenes, with 95% bootstrap intervals over them. *VAE reconstructions* are renderings
after the autoencoder. Annotator and scorer are compared with the renderer's exact maps, and with each other; depth
*fitted* is after a fit of scale and shift in every picture, as the benchmark measures it.

{quality}
"""


def write_card(
    weights: Path,
    folder: Path,
    parts: Sequence[str],
    *,
    note: str,
    scenes: int,
    size: int,
    seed: int,
    version: int = WORLD_VERSION,
    held_out: int = 1000,
) -> None:
    """Measure the family in `weights` on held-out scenes; write its README.md and losses.png beside the weights.

    folder: where the held-out scenes are kept.
    note: what else a reader must know, such as a departure from the recipes; may be empty.
    scenes, size, seed, version: of the training data, and of the world.
    """
    histories = {part: read_history(weights, part) for part in parts}
    unfinished = [part for part, history in histories.items() if not history]
    if unfinished:
        raise UserError(f"{weights} has no history of {', '.join(unfinished)}; train these parts before the card.")
    measures = measure_parts(weights, render_corpus(held_out, VALIDATION_SEED, size, folder, version))
    draw_losses(histories, weights / "losses.png")
    text = CARD.format(
        scenes=scenes,
        size=size,
        version=version,
        seed=seed,
        captions=len(DROPS),
        held_out=held_out,
        held_out_seed=VALIDATION_SEED,
        tasks="\n".join(textwrap.fill(line, 118, subsequent_indent="  ") for line in tasks(histories)),
        devices="; ".join(dict.fromkeys(history["device"] for history in histories.values())),
        hardware=processor(),
        torch=torch.__version__,
        date=datetime.now(UTC).date().isoformat(),
        note=f"\n- **Note**: {note}" if note else "",
        training=training_table(histories, weights),
        total=megabytes(weights),
        stride=STRIDE,
        quality=parts_tables(measures),
    )
    for page in (weights / HISTORIES / name for name in PAGES):
        if page.exists():
            text += "\n#" + page.read_text()  # its title becomes a section
    (weights / "README.md").write_text(text)


def tasks(histories: dict[str, dict[str, Any]]) -> list[str]:
    """What a reader must know of how the generator and its controls learn, in lines of a list."""
    networks = {part: history["part"] for part, history in histories.items() if "reconstructions" in history["part"]}
    again = {
        part: history["part"]["noise"]
        for part, history in histories.items()
        if "noise" in history["part"] and part not in networks
    }
    controls = {part: history["part"] for part, history in histories.items() if "condition" in history["part"]}
    predicted = {"epsilon": "noise", "v_prediction": "velocity"}[prediction_of(histories.get("unet", {}))]
    lines = [
        f"- **Generator**: {predicted} prediction with Min-SNR weighting (gamma {MIN_SNR:g}) on latent means; "
        f"{100 * UNPROMPTED:g}% of the prompts are empty{_weighted(histories.get('unet', {}))}."
    ]
    for part, noise in again.items():
        lines.append(
            f"- **Decoder** ({part}): the autoencoder's decoder once more, on frozen latents with noise of standard "
            f"deviation {noise:g}. The U-Net and what steers it know the latents alone; annotators and scorers see the "
            "pictures of the finished decoder."
        )
    if networks:
        seen = ", ".join(f"{count}" for count in sorted({fields["reconstructions"] for fields in networks.values()}))
        lines.append(
            f"- **Annotators and scorers** ({', '.join(networks)}): learn the same exact maps in networks of another "
            f"make; half of their pictures are renderings, half VAE reconstructions of {seen} scenes."
        )
        lines += [
            f"- **Disturbed** ({part}): {how}." for part, fields in networks.items() if (how := _disturbed(fields))
        ]
    prompts = {part: history["part"] for part, history in histories.items() if "image_drop" in history["part"]}
    for part, fields in prompts.items():
        lines.append(
            f"- **Style** ({part}): an IP-Adapter on the finished, frozen U-Net, shown a flipped crop of the picture "
            f"whose noise it helps to predict; {100 * fields['text_drop']:g}% of its prompts and "
            f"{100 * fields['image_drop']:g}% of its pictures are empty. It looks through an encoder of its own "
            "(`image_encoder`), not through the scorer."
        )
    if not controls:
        return lines
    canny = "; Canny's are always its detector's, at thresholds {} and {}".format(*CANNY_THRESHOLDS)
    also = canny if any(fields["condition"] == "canny" for fields in controls.values()) else ""
    lines.append(
        f"- **Controls** ({', '.join(controls)}): each is shown maps of one condition alone, on the finished, frozen "
        "U-Net; no network sees two conditions. Half of the maps are the shipped annotator's, as at generation, and "
        f"half are exact{also}. Half of all maps are partly blanked, on one side of a line, or outside or inside a "
        "rectangle. Timesteps are drawn early, t = (1 - u^3) T, where a picture is laid out."
    )
    copied = {part: fields["copied_lr"] for part, fields in controls.items() if "copied_lr" in fields}
    if copied:
        rates = ", ".join(f"{rate:g}" for rate in sorted(set(copied.values())))
        lines.append(
            f"- **ControlNets** ({', '.join(copied)}): each starts from the U-Net's encoder; the copied weights learn "
            f"at {rates} of the rate of the new ones."
        )
    others = [part for part in controls if part not in copied]
    if others:
        lines.append(f"- **Adapters** ({', '.join(others)}): T2I-Adapters; each starts from random weights.")
    return lines


def _weighted(history: dict[str, Any]) -> str:
    """What is special about the loss of a U-Net."""
    fields = history.get("part", {})
    said = [
        f"{fields['weight_floor']:g} is added to every weight" if fields.get("weight_floor") else "",
        f"cells near a solid count {fields['solids']:g} times" if fields.get("solids", 1) != 1 else "",
    ]
    return "".join(f"; {each}" for each in said if each)


def _disturbed(fields: dict[str, Any]) -> str:
    """How pictures of an annotator or scorer are disturbed in training, and what is special about its loss."""
    said = [
        f"noise of standard deviation up to {fields['noise']:g}" if fields.get("noise") else "",
        f"a Gaussian blur of up to about {fields['blur']:g} pixels" if fields.get("blur") else "",
        f"gain and offset of every channel changed by up to {fields['colour']:g}" if fields.get("colour") else "",
        f"pixels of solids count {fields['solids']:g} times" if fields.get("solids", 1) != 1 else "",
        "depth by its squared error" if fields.get("squared") else "",
    ]
    return ", ".join(filter(None, said))


def training_table(histories: dict[str, dict[str, Any]], weights: Path) -> str:
    """Markdown: how every part was trained, from its history, and what it weighs."""
    lines = [
        "| part | steps | batch | learning rate | seed | minutes | device | first loss | last loss | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    owners: dict[str, str] = {}  # two parts may end in one file
    for part, history in histories.items():
        made, loss = history["part"], history["loss"]
        recipe, owner = made["recipe"], owners.setdefault(made["subfolder"], part)
        size = f"{megabytes(weights / made['subfolder']):.1f}" if owner == part else f"in {owner}"
        cells = (
            part, recipe["steps"], recipe["batch"], f"{recipe['lr']:g}", made["seed"],
            f"{history['seconds'][0] / 60:.1f}", history["device"], f"{loss[0]:.3g}", f"{loss[-1]:.3g}",
            size,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw_losses(histories: dict[str, dict[str, Any]], path: Path) -> None:
    """Loss curves as a picture, one panel a part."""
    down = math.ceil(len(histories) / ACROSS)
    figure = Figure(figsize=(2.5 * ACROSS, 1.7 * down), layout="constrained")
    panels = figure.subplots(down, ACROSS, squeeze=False).flatten()
    for panel, (part, history) in zip(panels, histories.items(), strict=False):
        loss = history["loss"]
        panel.plot(history["ends"], loss, color="tab:blue", linewidth=1, marker="." if len(loss) < 3 else "")
        if min(loss) > 0 and max(loss) > WIDE * min(loss):
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_locator(NullLocator())
        panel.set_title(part, fontsize=8)
        panel.set_xlim(0, None)
        panel.tick_params(labelsize=6)
        panel.grid(alpha=0.3)
    for panel in panels[len(histories) :]:
        panel.set_axis_off()
    figure.supxlabel("steps", fontsize=8)
    figure.supylabel("loss", fontsize=8)
    figure.savefig(path, dpi=100)


def megabytes(folder: Path) -> float:
    """What the weights under a folder weigh, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def processor() -> str:
    """The processor of this machine, as it names itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
