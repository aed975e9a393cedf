"""A base model and its controls, called like a pipeline of diffusers; pictures are a run's, to the last byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from maxbench import images as im
from maxbench.api.arguments import (
    OUTPUTS,
    Strength,
    check_rule,
    is_whole,
    method_of,
    noise_of,
    prompts_of,
    sampler_of,
)
from maxbench.api.maps import Given, maps, masks, pictures, shown, within
from maxbench.conditions.base import Condition
from maxbench.errors import UserError
from maxbench.evaluation.columns import CLIP_PROTOCOL
from maxbench.evaluation.measure import Compared, MeasurePictures
from maxbench.evaluation.state import CLIP_SCORE, fidelity_label
from maxbench.experiments.method import Method
from maxbench.fusion import Fusion, Rule
from maxbench.generation.inputs import DrawMaps
from maxbench.generation.networks import Networks
from maxbench.generation.runner import MakePictures
from maxbench.generation.sampling import Batch
from maxbench.generation.trace import TraceMethod, steps_between
from maxbench.models.control import PROMPT
from maxbench.models.pipeline import Sampler
from maxbench.seeds import Noise, RunNoise
from maxbench.store.artefacts import batches, padded
from maxbench.suites.folder import FolderSuite


def seed_of(run_seed: int, sample: str | Any, replicate: int = 0) -> RunNoise:
    """The noise of one image of a run, for `seed=`: with it a picture is the run's own.

    sample: a sample, or its group as manifest.json has it, which is its id where samples are not grouped.
    """
    group = sample if isinstance(sample, str) else getattr(sample, "group", None)
    if isinstance(sample, Mapping):
        group = sample.get("group")
    if not isinstance(group, str) or not group:
        raise UserError(f"sample is {sample!r}; give a sample's group, as manifest.json has it.")
    for name, value in (("run_seed", run_seed), ("replicate", replicate)):
        if not is_whole(value) or value < 0:
            raise UserError(f"{name} is {value!r}; give a whole number, 0 or more.")
    return RunNoise(int(run_seed), group, int(replicate))


@dataclass(frozen=True)
class Decisions:
    """What a rule decided in the making of pictures.

    branches: the conditions; a winner's number is its place among them.
    table: a row for every step of the sampler and place where branches meet, over all pictures of the call; none where
        no two controls of one kind meet. `merged` (share of locations that are averaged), `rho` (mean similarity of the
        losers to the winner), `wins/<condition>` (share of locations won), `saliency/<condition>`; the columns of a
        run's diagnostics.
    maps: "<kind>/<place>/<step>/<what>" -> array; kind is `unmerge`, `output` or `unet`; what is `saliency` (branch,
        picture, h, w), `winner` or `merged` (picture, h, w).
    """

    branches: tuple[str, ...]
    table: pd.DataFrame
    maps: Mapping[str, np.ndarray]

    def at(self, what: str, kind: str = "output") -> dict[tuple[int, int], np.ndarray]:
        """(step, place) -> the arrays of one kind, in the order of the forward pass."""
        found = {}
        for key, array in self.maps.items():
            own, place, step, name = key.split("/")
            if (own, name) == (kind, what):
                found[int(step), int(place)] = array
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class PipelineOutput:
    """What a call makes.

    images: a list of PIL pictures, or for output_type "np" (B, H, W, 3) floats in [0, 1], for "pt" a tensor
        (B, 3, H, W) on the processor.
    decisions: if they were asked for. defects: of every picture "nan", "black" or None.
    noise: of every picture; given back as `seed=`, the same noise.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    decisions: Decisions | None = None
    defects: tuple[str | None, ...] = ()
    noise: tuple[Noise, ...] = ()


@dataclass(frozen=True)
class MultiControlPipeline:
    """The networks of a suite, each loaded when it is first needed and then kept; :func:`maxbench.load` makes it.

    sampler: the usual one. batch_size: pictures made together, None for all of a call. methods: the settings of a file
    in conf/fusion/ by its name.
    """

    networks: Networks
    suite: FolderSuite
    sampler: Sampler
    batch_size: int | None
    methods: Callable[[str], Mapping[str, Any]]

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Of the controls that were loaded, in their order."""
        return self.networks.conditions

    @property
    def resolution(self) -> int:
        """Of pictures and maps, pixels a side."""
        return self.suite.resolution

    def __repr__(self) -> str:
        precision = self.networks.precision.name
        return (
            f"MultiControlPipeline({self.suite.name}, {' + '.join(self.conditions)}, {self.resolution} x "
            f"{self.resolution}, {precision} on {self.networks.device})"
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        maps: Mapping[str, Given | Sequence[Given]] | Sequence[Mapping[str, Given]] | None = None,
        rule: Rule | Fusion | str | None = None,
        *,
        masks: Mapping[str, Given | Sequence[Given]] | None = None,
        sites: Sequence[str] | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        controlnet_conditioning_scale: Strength = None,
        control_guidance_start: Strength = None,
        control_guidance_end: Strength = None,
        num_images_per_prompt: int = 1,
        seed: int | Noise | Sequence[int | Noise] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        decisions: bool | int = False,
    ) -> PipelineOutput:
        """Pictures of a prompt under the maps of some or all controls.

        prompt: a text, or a list for a batch. maps: condition -> map, or a list of maps as long as the prompts, or a
            list of such mappings; controls without a map do not act. masks: condition -> where its map is given, what
            is 0 is outside; there the map says nothing, as a control mask of a run.
        rule: what happens where controls meet: a rule, the name of a file in conf/fusion/ with all that it says, or a
            :class:`maxbench.fusion.Fusion`; None is "sum", as in diffusers. sites: where it unmerges; those of the
            experiments' methods unless said.
        negative_prompt, num_inference_steps, guidance_scale: the suite's own unless said.
        controlnet_conditioning_scale: one number is the strength of what is merged, the suite's own unless said; a list
            or a mapping gives each control a strength of its own before they are merged, and nothing after.
        control_guidance_start, control_guidance_end: shares of the steps between which controls act.
        seed: noise is that of `torch.Generator().manual_seed(seed)`, for several pictures drawn one after the other; a
            list has one for each; :func:`maxbench.seed_of` names the noise of a run. generator: the same of generators
            on the processor. Without either the noise is new every time; the output says what it was.
        decisions: whether to record what the rule decides, maps of it at so many steps (True: 4); pictures are then
            made once more and do not change.

        Raises UserError for whatever cannot be done with the arguments, in a sentence.
        """
        if output_type not in OUTPUTS:
            raise UserError(f"output_type is {output_type!r}; take one of {', '.join(OUTPUTS)}.")
        prompts = prompts_of(prompt, num_images_per_prompt)
        own, inside = self._given(maps, masks, len(prompts), num_images_per_prompt)
        sampler = sampler_of(self.sampler, num_inference_steps, guidance_scale, negative_prompt)
        method = method_of(
            rule, sites, controlnet_conditioning_scale, control_guidance_start, control_guidance_end,
            list(self.conditions), list(own), self.suite.control_scale, self.methods,
        )  # fmt: skip
        kinds = [kind for kind in map(self.suite.branch_kind, own) if kind != PROMPT]
        check_rule(method, kinds, sampler)
        noise = noise_of(seed, generator, len(prompts), self.suite.latent_shape())
        batch = Batch(prompts, noise, own, self.resolution)
        if decisions and self.batch_size and len(batch) > self.batch_size:
            raise UserError(
                f"decisions are recorded in one batch: ask for at most {self.batch_size} pictures at a time "
                f"(batch_size), not {len(batch)}."
            )
        try:
            found = self._made(method, sampler, batch)
            recorded = self._recorded(method, sampler, batch, inside, decisions) if decisions else None
        except UserError as error:
            raise UserError(str(error).removeprefix(f"methods.{method.name}: ")) from error
        return PipelineOutput(_as(output_type, found), recorded, tuple(map(im.defect, found)), noise)

    def annotate(self, picture: Given | Sequence[Given], condition: str) -> Image.Image | list[Image.Image]:
        """The map of a picture, or of several; see :func:`maxbench.annotate`."""
        if condition not in self.conditions:
            raise UserError(
                f"There is no condition '{condition}' here; this pipeline was loaded with {', '.join(self.conditions)}."
            )
        self.suite.require_readers([self.suite.annotators.get(condition)])
        arrays = pictures(picture, self.resolution)
        drawn = []
        for places in batches(range(len(arrays)), self.batch_size or len(arrays)):
            filled = arrays[padded(places, self.batch_size or len(arrays))]
            drawn += list(DrawMaps(condition, filled, tuple(places)).run(self.networks))
        found = [shown(self.conditions[condition], each) for each in drawn]
        return found if _is_several(picture) else found[0]

    def score(
        self,
        picture: Given | Sequence[Given],
        maps: Mapping[str, Given | Sequence[Given]],
        prompt: str | Sequence[str] | None = None,
        *,
        masks: Mapping[str, Given | Sequence[Given]] | None = None,
    ) -> pd.DataFrame:
        """How far maps hold in pictures, and how well those fit a prompt; see :func:`maxbench.score`."""
        arrays = pictures(picture, self.resolution)
        count = len(arrays)
        given, inside = self._given(maps, masks, count, 1)
        if not given:
            raise UserError("There is no map; give at least one, maps={'depth': ...}.")
        prompts = None if prompt is None else self._prompts(prompt, count)
        suite = self.suite
        readers = [suite.scorers.get(name, suite.annotators.get(name)) for name in given]
        suite.require_readers([*readers, *([] if prompts is None else [suite.text_scorer])])
        rows: list[dict[str, Any]] = []
        for places in batches(range(count), self.batch_size or count):
            rows += self._scored(arrays, given, inside, prompts, places)
        return pd.DataFrame(rows)

    # --- parts of a call --------------------------------------------------------------------------------------

    def _given(self, found: Any, where: Any, count: int, copies: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Maps and masks of every picture: (B, S, S[, 3]) uint8 and (B, S, S) bool by condition."""
        if isinstance(found, list | tuple):
            found = _transposed(found)
        prompts = count // copies
        own = maps({} if found is None else found, self.conditions, prompts, self.resolution)
        inside = masks(where, self.conditions, own, prompts, self.resolution)
        own = within(own, inside, self.conditions)
        own, inside = ({name: np.repeat(each, copies, axis=0) for name, each in part.items()} for part in (own, inside))
        return own, inside

    def _made(self, method: Method, sampler: Sampler, batch: Batch) -> torch.Tensor:
        """Pictures (B, 3, S, S), float32, by the task that makes those of runs."""
        size, found = self.batch_size or len(batch), []
        pipeline = self.networks.pipeline
        pipeline.slice_autoencoder(self.networks.precision, size, self.resolution)
        for places in batches(range(len(batch)), size):
            part = batch.take(padded(places, size))
            made = MakePictures(method, sampler, part, tuple(places)).run(self.networks)
            found += [picture for picture, _ in made]
        return torch.stack(found)

    def _recorded(
        self, method: Method, sampler: Sampler, batch: Batch, inside: Mapping[str, np.ndarray], asked: bool | int
    ) -> Decisions:
        """What the rule decides, by the task that records it in runs."""
        steps = 4 if asked is True else asked
        if not is_whole(steps) or steps < 1:
            raise UserError(f"decisions is {asked!r}; give True, or at how many steps maps are kept.")
        regional = bool(method.branches) and all(name in inside for name in method.branches)
        task = TraceMethod(
            method=method,
            sampler=sampler,
            batch=batch,
            maps=len(batch),
            steps=tuple(steps_between(steps, sampler.steps)),
            regions={name: inside[name] for name in method.branches} if regional else None,
        )
        trace = task.run(self.networks)
        table = trace.table()
        if table.empty:  # where no two controls of one kind meet
            table = pd.DataFrame(columns=["step", "kind", "place", "merged", "rho"])
        return Decisions(tuple(method.branches), table, dict(trace.maps))

    def _prompts(self, prompt: str | Sequence[str], count: int) -> tuple[str, ...]:
        said = prompts_of(prompt, 1)
        if len(said) not in (1, count):
            raise UserError(f"{len(said)} prompts for {count} pictures; give one for all, or one for each of them.")
        return said * count if len(said) == 1 else said

    def _scored(
        self,
        arrays: np.ndarray,
        given: Mapping[str, np.ndarray],
        inside: Mapping[str, np.ndarray],
        prompts: Sequence[str] | None,
        places: Sequence[int],
    ) -> list[dict[str, Any]]:
        """The rows of a batch, by the task that scores a run's pictures."""
        filled = padded(places, self.batch_size or len(arrays))
        task = MeasurePictures(
            places=tuple(places),
            pictures=arrays[filled],
            features=(),
            prompts=None if prompts is None else tuple(prompts[place] for place in filled),
            compared={
                name: Compared(
                    given=own[filled],
                    mask=inside[name][list(places)] if name in inside else None,
                    by_scorer=self.conditions[name].rulers,
                    by_annotator=(),
                )
                for name, own in given.items()
            },
        )
        rows = []
        for place, values in zip(places, task.pack(task.run(self.networks)), strict=True):
            for name in given:
                for ruler in self.conditions[name].rulers:
                    value = ruler.score(values[fidelity_label(name, ruler.metric)][None])[0]
                    protocol = ruler.sample_protocol + (", inside its evaluation mask" if name in inside else "")
                    rows.append(_row(place, name, ruler.sample_metric, value, protocol, ruler.higher_is_better))
            if prompts is not None:
                rows.append(_row(place, "", CLIP_SCORE, values[CLIP_SCORE], CLIP_PROTOCOL, True))
        return rows


def _row(place: int, condition: str, metric: str, value: Any, protocol: str, higher_is_better: bool) -> dict[str, Any]:
    return {
        "picture": place, "condition": condition, "metric": metric, "value": float(value), "protocol": protocol,
        "higher_is_better": higher_is_better,
    }  # fmt: skip


def _as(output_type: str, found: torch.Tensor) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Pictures (B, 3, H, W) as they were asked for; PIL's are 8 bits, as a run writes them."""
    if output_type == "pil":
        return [Image.fromarray(each) for each in im.to_bytes(found)]
    inside = found.clamp(0, 1)
    return inside if output_type == "pt" else inside.permute(0, 2, 3, 1).numpy()


def _transposed(found: Sequence[Any]) -> dict[str, list[Any]]:
    """Maps by picture -> by condition."""
    first = found[0] if found else None
    if not all(isinstance(each, Mapping) for each in found) or any(each.keys() != first.keys() for each in found):
        raise UserError("maps is a list; give condition: map for every picture, all of the same conditions.")
    return {name: [each[name] for each in found] for name in first or ()}


def _is_several(picture: Any) -> bool:
    return isinstance(picture, list | tuple) or getattr(picture, "ndim", 0) == 4
