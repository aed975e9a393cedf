"""Methods under watch: the first samples once more, and what every rule decides on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffusers import ControlNetModel

from maxbench.data.pairing import Sample
from maxbench.fusion.trace import Trace, Traced, drift
from maxbench.experiments.method import Method
from maxbench.generation.inputs import region
from maxbench.progress import track
from maxbench.store.runfolder import write_atomically
from maxbench.generation.sampling import Sampling

FOLDER = "diagnostics"


@dataclass(frozen=True)
class Watching:
    """What is recorded: nothing unless there are samples.

    samples: the first ones of the run are generated once more under watch. maps: of how many saliency and winners are
    kept as maps. steps: at how many steps, evenly from the first to the last.
    """

    samples: int = 0
    maps: int = 4
    steps: int = 4

    def record(self, sampling: Sampling, methods: Sequence[Method]) -> None:
        """Leave `diagnostics/<method>-*.csv` and `.npz` of every method that has none of these settings yet."""
        folder, samples = sampling.given.folder, sampling.given.experiment.samples[: self.samples]
        key = f"{len(samples)}-{self.maps}-{self.steps}"
        files = {method.name: [f"{FOLDER}/{method.name}-{key}.{kind}" for kind in ("csv", "npz")] for method in methods}
        missing = [each for each in methods if folder.finished(f"{FOLDER}/{each.name}", 0, files[each.name]) is None]
        if missing:
            nets = {name: net for name, net in sampling.pipeline.controls.items() if isinstance(net, ControlNetModel)}
            drifts = {name: drift(net, sampling.pipeline.unet) for name, net in nets.items()}
            write_atomically(folder.path / FOLDER / "drift.json", json.dumps(drifts, indent=1))
        for method in track(missing, "watching", len(missing), "methods", lambda _: 1):
            watch = self.watch(sampling, method, samples)
            contents = [watch.table().to_csv(index=False).encode(), watch.packed()]
            folder.commit(f"{FOLDER}/{method.name}", 0, dict(zip(files[method.name], contents, strict=True)))

    def watch(self, sampling: Sampling, method: Method, samples: Sequence[Sample]) -> Trace:
        """One method's decisions on samples, all in one batch."""
        scored = {name: region(sampling.given.folder, "evaluation_masks", name, samples) for name in method.branches}
        regional = bool(scored) and all(each is not None for each in scored.values())
        watch = Trace(
            branches=method.branches,
            size=len(samples),
            keep=self.maps,
            steps=self._at(sampling.sampler.steps),
            regions={name: each[:, None] for name, each in scored.items()} if regional else None,
        )
        watched = replace(method, rule=Traced(method.rule, watch), otherwise=Traced(method.otherwise, watch))
        with watch.over(sampling.pipeline.unet):
            sampling.latents(watched, samples, [0] * len(samples))
        return watch

    def _at(self, steps: int) -> list[int]:
        """Which of a sampler's steps maps are kept of."""
        count = min(self.steps, steps)
        return sorted({round(place * (steps - 1) / max(count - 1, 1)) for place in range(count)})
