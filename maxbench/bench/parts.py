"""Where the time of a batch goes: a pass of its own under watch, since watching takes time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from torch import nn

from maxbench import images as im
from maxbench.bench.cases import Batch, Reference, Subject, control_of, encode_text
from maxbench.bench.clock import Stopwatch
from maxbench.experiments.method import Method
from maxbench.fusion import Feature, Rule
from maxbench.models.control import Control
from maxbench.models.precision import tf32
from maxbench.progress import track
from maxbench.store.files import write_atomically

TEXT, HINTS, CONTROLS, FUSION, UNET = "text", "hints", "controls", "fusion", "U-Net"
REST, DECODE, PNG, WRITE = "scheduler, guidance", "decode", "PNG encoding", "write"
PARTS = (TEXT, HINTS, CONTROLS, FUSION, UNET, REST, DECODE, PNG, WRITE)
"""`hints` is the embedding of the maps, `controls` the rest of the control networks without what is fused, the rest is
what denoising takes beside these."""

ACTING = "acting"  # all of a step before the U-Net, on this package's side: hints, controls and fusion
DENOISING = "denoising"


@dataclass(frozen=True)
class WatchedRule(Rule):
    """A rule whose every act is on the clock."""

    rule: Rule
    watch: Stopwatch

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        with self.watch.on(FUSION):
            return self.rule.unmerge(features)

    def merge(self, features: Sequence[Feature]) -> Feature:
        with self.watch.on(FUSION):
            return self.rule.merge(features)

    def merge_mid(self, features: Sequence[Feature]) -> Feature:
        with self.watch.on(FUSION):
            return self.rule.merge_mid(features)

    def for_branches(self, names: Sequence[str]) -> Rule:
        return replace(self, rule=self.rule.for_branches(names))

    @property
    def needs_guidance(self) -> bool:
        return self.rule.needs_guidance


@dataclass(frozen=True)
class WatchedControl(Control):
    """A control whose every step is on the clock."""

    watch: Stopwatch | None = None

    def __call__(self, *moment):
        with self.watch.on(ACTING):
            return super().__call__(*moment)


@contextlib.contextmanager
def watched(modules: Mapping[str, Sequence[nn.Module]], watch: Stopwatch) -> Iterator[None]:
    """Within it the forward passes of modules are on the clock, by the name of their part."""
    hooks = []
    for part, nets in modules.items():
        for net in nets:
            hooks += [
                net.register_forward_pre_hook(lambda *_, part=part: watch.begin(part)),
                net.register_forward_hook(lambda *_, part=part: watch.end(part)),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def parts_of(subject: Subject, method: Method, repeats: int, folder: Path) -> dict[str, float]:
    """Seconds of a batch by part, medians of `repeats`; the loop is the one that is timed, in eager mode."""
    pipeline, sampler, batch = subject.pipeline, subject.sampler, subject.batches[0]
    watch = Stopwatch(pipeline.device)
    seen = replace(method, rule=WatchedRule(method.rule, watch))
    nets = {HINTS: [pipeline.controls[name].controlnet_cond_embedding for name in method.branches]}

    def run() -> None:
        with watch.on(TEXT):
            text, negative = encode_text(pipeline, sampler, batch)
        with watch.on(DENOISING):
            control = WatchedControl(**vars(control_of(pipeline, seen, batch)), watch=watch)
            latents = pipeline.denoise(batch.noise, text, negative, control, sampler, batch.generators())
        with watch.on(DECODE):
            made = pipeline.decode(latents).cpu()
        _keep(made, watch, folder)

    with watched({**nets, UNET: [pipeline.unet]}, watch):
        return _medians(run, watch, repeats, f"parts of {method.name}")


def parts_of_reference(reference: Reference, batch: Batch, repeats: int) -> dict[str, float]:
    """The same of diffusers' pipeline, of whose fusion, one addition, `controls` is a part."""
    pipeline = reference.pipeline
    watch = Stopwatch(pipeline.device)
    controls = reference.diffusers.controlnet

    def run() -> None:
        with watch.on(DENOISING), tf32(pipeline.allow_tf32):
            latents = reference.latents(batch)
        with watch.on(DECODE):
            pipeline.decode(latents).cpu()

    encode = reference.diffusers.encode_prompt

    def encoding(*arguments, **settings):
        with watch.on(TEXT):
            return encode(*arguments, **settings)

    modules = {
        HINTS: [net.controlnet_cond_embedding for net in controls.nets],
        ACTING: [controls],
        UNET: [pipeline.unet],
    }
    reference.diffusers.encode_prompt = encoding
    try:
        with watched(modules, watch):
            found = _medians(run, watch, repeats, "parts of diffusers")
    finally:
        del reference.diffusers.encode_prompt  # the class has its own
    found[REST] -= found[TEXT]  # here the text is encoded within
    return found


def _keep(made, watch: Stopwatch, folder: Path) -> None:
    with watch.on(PNG):
        contents = [im.encode_png(array) for array in im.to_bytes(made)]
    with watch.on(WRITE):
        for place, content in enumerate(contents):
            write_atomically(folder / f"{place}.png", content)


def _medians(run: Callable[[], None], watch: Stopwatch, repeats: int, what: str) -> dict[str, float]:
    """Everything has run before, so nothing is warmed up."""
    taken = []
    for _ in track(range(repeats), what, repeats, "batches", brief=True):
        run()
        taken.append(_apart(watch.take()))
    return {part: median(each[part] for each in taken) for part in taken[0]}


def _apart(seconds: Mapping[str, float]) -> dict[str, float]:
    """Parts that do not overlap."""
    acting, hints, fusion = (seconds.get(part, 0.0) for part in (ACTING, HINTS, FUSION))
    apart = {part: seconds[part] for part in PARTS if part in seconds}
    if acting:
        apart[CONTROLS] = acting - hints - fusion
    apart[REST] = seconds[DENOISING] - acting - seconds[UNET]
    return {part: apart[part] for part in PARTS if part in apart}
