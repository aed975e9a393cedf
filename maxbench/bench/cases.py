"""What is timed: the same pictures by this package's loop and by diffusers' pipeline, and from files to files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from diffusers import StableDiffusionControlNetPipeline
from jaxtyping import Float, UInt8
from torch import Tensor

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.fusion import Sum
from maxbench.generation import sampling
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.networks import Networks
from maxbench.generation.runner import MakePictures
from maxbench.models.control import SPATIAL, Control, kind_of
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.models.precision import tf32
from maxbench.seeds import RunNoise
from maxbench.store.artefacts import Store
from maxbench.store.files import fingerprint, write_atomically
from maxbench.store.runfolder import RunFolder, image_file

SUM = "sum"
"""The method that diffusers has too: its MultiControlNetModel adds up what the controls give."""

LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Root mean square over pictures in [0, 1] by which two ways of making the same ones may differ. diffusers keeps
latents in the networks' dtype from step to step and this package in float32, so that in 16 bits they differ by more
than rounding. The mean in the place of the sum differs by .1 on the miniature."""


@dataclass(frozen=True)
class Batch:
    """What every case makes the same pictures from, one prompt each.

    shape: of one picture's latents. maps: condition -> the files of the maps. show: condition -> maps, uint8, to what a
    control is shown. number: of the batch, which decides its noise.
    """

    prompts: Sequence[str]
    shape: tuple[int, int, int]
    maps: Mapping[str, Sequence[Path]]
    show: Mapping[str, Callable[[Tensor], Tensor]]
    number: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def noises(self) -> tuple[RunNoise, ...]:
        """Of every picture, as a run has it."""
        return tuple(RunNoise(self.number, f"bench-{place}") for place in range(len(self)))

    @cached_property
    def noise(self) -> Float[Tensor, "batch channel height width"]:
        """N(0, 1), float32."""
        return torch.stack([each.draw(self.shape) for each in self.noises])

    @cached_property
    def hints(self) -> dict[str, Float[Tensor, "batch 3 H W"]]:
        """What controls are shown, in [0, 1]."""
        return {name: self.show[name](im.read_maps(files)) for name, files in self.maps.items()}

    def generators(self) -> list[torch.Generator]:
        """One for every picture, on the processor."""
        return [each.generator() for each in self.noises]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    pipeline: its networks, computing eagerly. compiled: the same of its own, compiled; None where that is not asked
    for. methods: by name, SUM among them. batches: of one size; all of them for what goes from files to files, the
    first for everything else.
    """

    pipeline: Pipeline
    methods: Mapping[str, Method]
    sampler: Sampler
    batches: Sequence[Batch]
    compiled: Pipeline | None = None

    def __post_init__(self):
        require_comparable(self.methods, lambda name: kind_of(self.pipeline.controls[name]))

    @property
    def resolution(self) -> int:
        """Of the pictures, in pixels a side."""
        return next(iter(self.batches[0].hints.values())).shape[-1]


def require_comparable(methods: Mapping[str, Method], kind: Callable[[str], str]) -> None:
    """UserError where diffusers' pipeline could not make the same pictures as the method SUM.

    kind: condition -> when its control runs, see :func:`maxbench.models.control.kind_of`; no network is needed.
    """
    if SUM not in methods:
        raise UserError(f"The experiment has no method '{SUM}', which diffusers' pipeline is compared with; add it.")
    added = methods[SUM]
    if len(added.branches) < 2:
        raise UserError(
            f"methods.{SUM} has {len(added.branches)} control and nothing to add up; take an experiment with two, "
            "experiment=hed_depth."
        )
    if not isinstance(added.rule, Sum) or added.sites or added.layer_scale is not None:
        raise UserError(f"methods.{SUM} is not the sum of the controls' outputs, which is what diffusers makes.")
    if (added.fusion_start, added.fusion_end) != (0, 1):
        raise UserError(f"methods.{SUM} sums in a part of the steps, which diffusers does not; leave out fusion_start.")
    branches = dict.fromkeys(name for method in methods.values() for name in method.branches)
    if others := [name for name in branches if kind(name) != SPATIAL]:
        raise UserError(
            f"The control of {' and '.join(others)} is no ControlNet with a residual at every location, and diffusers' "
            "pipeline adds up these alone; take another experiment."
        )


def draw_maps(
    condition: Condition, annotator: Callable | None, pictures: Sequence[Path], resolution: int, folder: Path
) -> list[Path]:
    """The files of the maps of pictures, drawn as in a run."""
    return write_maps(condition.draw(im.read_images(pictures, resolution), annotator), folder)


def write_maps(maps: UInt8[Tensor, "batch height width"], folder: Path) -> list[Path]:
    """Maps as the files that they are in a run."""
    files = [folder / f"{place}.png" for place in range(len(maps))]
    for file, array in zip(files, maps.numpy(), strict=True):
        write_atomically(file, im.encode_png(array))
    return files


# --- this package -----------------------------------------------------------------------------------------


def encode_text(pipeline: Pipeline, sampler: Sampler, batch: Batch) -> tuple[Tensor, Tensor]:
    """Text states of the prompts, and of the negative prompt."""
    negative = pipeline.encode_text([sampler.negative_prompt]).expand(len(batch), -1, -1)
    return pipeline.encode_text(batch.prompts), negative


def control_of(pipeline: Pipeline, method: Method, batch: Batch) -> Control:
    """A method's branches on the batch, of which nothing is computed yet."""
    return pipeline.control({name: batch.hints[name] for name in method.branches}, method)


def pictures(pipeline: Pipeline, method: Method, sampler: Sampler, batch: Batch) -> Float[Tensor, "batch 3 H W"]:
    """From prompts and hints to pictures in the processor's memory, about [0, 1]."""
    text, negative = encode_text(pipeline, sampler, batch)
    control = control_of(pipeline, method, batch)
    latents = pipeline.denoise(batch.noise, text, negative, control, sampler, batch.generators())
    return pipeline.decode(latents).cpu()


def denoising(pipeline: Pipeline, method: Method, sampler: Sampler, batches: Sequence[Batch]) -> Callable[[], None]:
    """What denoises the batches and does nothing else: their text is encoded already."""
    texts = [encode_text(pipeline, sampler, batch) for batch in batches]

    def run() -> None:
        for batch, (text, negative) in zip(batches, texts, strict=True):
            control = control_of(pipeline, method, batch)
            pipeline.denoise(batch.noise, text, negative, control, sampler, batch.generators())

    return run


# --- from files to files ----------------------------------------------------------------------------------


class EndToEnd(Protocol):
    """The loop of a run: from maps in files to PNG files, for all batches of one method."""

    def __call__(
        self, pipeline: Pipeline, method: Method, sampler: Sampler, batches: Sequence[Batch], folder: Path
    ) -> None:
        """Leave every picture as a PNG file somewhere below `folder`, whole, when this returns."""


class Shown(NamedTuple):
    """What a task asks of a condition: what its control is shown of a map."""

    hint: Callable[[Tensor], Tensor]


def by_executor(pipeline: Pipeline, method: Method, sampler: Sampler, batches: Sequence[Batch], folder: Path) -> None:
    """A run's own tasks by its executor in one process, its pictures kept and recorded as a run's are.

    Maps are read, and pictures encoded and written, while others denoise. In a run one method follows another on a
    batch, and what they share is computed once; here there is one. Each call leaves a run folder of its own.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    run = RunFolder.open(place, "bench", {}, Store.open(place / "store"))
    resolution, kept = next(iter(batches[0].hints.values())).shape[-1], {}

    def tasks() -> Iterator[MakePictures]:
        for batch in batches:
            maps = {name: im.read_maps(batch.maps[name]).numpy() for name in method.branches}
            asked = sampling.Batch(tuple(batch.prompts), batch.noises, maps, resolution)
            yield MakePictures(method, sampler, asked, tuple(range(len(batch))))

    def keep(task: MakePictures, made: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
        for noise, (content, details) in zip(task.batch.noise, made, strict=True):
            file = image_file(method.name, noise.group, noise.run_seed)
            kept[file] = run.keep("image", fingerprint(noise), content, details)
            run.put(file, kept[file])

    conditions = {name: Shown(hint) for name, hint in batches[0].show.items()}
    networks = Networks(conditions, load_pipeline=lambda precision: pipeline, device=pipeline.device)
    LocalExecutor(networks).run(tasks(), keep)
    run.place(f"images/{method.name}", kept, "image")


# --- diffusers --------------------------------------------------------------------------------------------


class Reference:
    """diffusers' own pipeline on the same networks, as its users call it.

    It stops at the latents, and both are decoded by the same function: diffusers would decode in the dtype of the
    U-Net, and the autoencoder computes in float32 here.
    """

    def __init__(self, pipeline: Pipeline, method: Method, sampler: Sampler, compiled: bool = False):
        """compiled: the U-Net and the controls as diffusers' documentation compiles them."""
        names = list(method.branches)
        self.pipeline, self.method, self.sampler = pipeline, method, sampler
        self.diffusers = StableDiffusionControlNetPipeline(
            vae=pipeline.vae,
            text_encoder=pipeline.text_encoder,
            tokenizer=pipeline.tokenizer,
            unet=pipeline.unet,
            controlnet=[pipeline.controls[name] for name in names],
            scheduler=sampler.scheduler(pipeline.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.diffusers.set_progress_bar_config(disable=True)
        if compiled:
            for part in ("unet", "controlnet"):
                whole = torch.compile(getattr(self.diffusers, part), mode="reduce-overhead", fullgraph=True)
                setattr(self.diffusers, part, whole)
        self.settings = {
            "num_inference_steps": sampler.steps,
            "guidance_scale": sampler.guidance_scale,
            "controlnet_conditioning_scale": [float(method.scale * method.weight(name)) for name in names],
            "control_guidance_start": [_of(method.control_start, name, 0.0) for name in names],
            "control_guidance_end": [_of(method.control_end, name, 1.0) for name in names],
        }

    def __call__(self, batch: Batch) -> Float[Tensor, "batch 3 H W"]:
        """The pictures of a batch, as :func:`pictures` gives them."""
        with tf32(self.pipeline.allow_tf32):
            latents = self.latents(batch)
        return self.pipeline.decode(latents).cpu()

    def latents(self, batch: Batch) -> Float[Tensor, "batch channel height width"]:
        return self.diffusers(
            prompt=list(batch.prompts),
            negative_prompt=[self.sampler.negative_prompt] * len(batch),
            image=[batch.hints[name] for name in self.method.branches],
            latents=batch.noise.to(self.pipeline.device, self.pipeline.dtype),
            generator=batch.generators(),
            output_type="latent",
            **self.settings,
        ).images


def _of(value: float | Mapping[str, float], branch: str, default: float) -> float:
    return float(value.get(branch, default) if isinstance(value, Mapping) else value)


def difference(one: Tensor, other: Tensor) -> float:
    """Root mean square between pictures, clipped to [0, 1]; infinite where either has a NaN."""
    gap = (one.clamp(0, 1) - other.clamp(0, 1)).square().mean().sqrt().item()
    return gap if gap == gap else float("inf")


def require_agreement(one: Tensor, other: Tensor, dtype: torch.dtype, what: str) -> float:
    """The difference of pictures that should be the same; UserError where it is more than LARGEST_DIFFERENCE."""
    found, most = difference(one, other), LARGEST_DIFFERENCE[dtype]
    if not found <= most:
        raise UserError(
            f"{what} make different pictures (root mean square {found:.2g}, at most {most:g} in "
            f"{str(dtype).removeprefix('torch.')}), so their times say nothing; nothing was timed."
        )
    return found
