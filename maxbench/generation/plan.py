"""What a run would make and what it would find: counted from keys and records, before anything is computed.

Keys depend on what they are made from: a map's on its source picture, an image's on its maps. Where those are not there
yet, everything that is made of them counts as missing, although a store may hold it. What is found is believed by its
record: a damaged file is noticed when it is used, and made again then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maxbench.experiments.method import Method
from maxbench.generation.inputs import CONTROL, EVALUATION, ControlInputs, source_key
from maxbench.generation.runner import Generation
from maxbench.models.pipeline import Evaluations
from maxbench.store.artefacts import Artefact
from maxbench.store.files import fingerprint
from maxbench.store.scores import Scores

BYTES_A_PIXEL = {"source": 1.6, "image": 1.6, "reconstruction": 1.6, "map": 0.4, "mask": 0.05}
"""Of PNG files, assumed where none is there to be measured: photographs and their edges at 512 pixels a side."""
RECORD_BYTES = 800
SCORE_BYTES = 24_000
"""Of everything that is measured in a picture, features of Inception and CLIP included; likewise assumed."""


NO_NETWORK = Evaluations(0, 0)


@dataclass(frozen=True)
class Need:
    """How much of one thing is there and how much is to be made.

    what: for people. kind: of artefact. found, missing: how many. bytes: of those found.
    per: evaluations of networks for one of them. series: of images, what the candidates of a tuned method share.
    """

    what: str
    kind: str
    found: int = 0
    missing: int = 0
    bytes: int = 0
    per: Evaluations = NO_NETWORK
    series: str = ""

    @property
    def evaluations(self) -> Evaluations:
        """Of networks, for all that are missing."""
        return Evaluations(*(self.missing * each for each in self.per))


@dataclass
class Planning:
    """Looks through what a run and its training need, each thing once.

    is_open: of a method, whether its settings are not known yet; its images are then missing.
    """

    is_open: Callable[[Method], bool] = lambda method: False
    seen: set[tuple[str, str]] = field(default_factory=set)  # (kind, key), or what else an item is told apart by

    def needs(self, generation: Generation, reference: Iterable[str] = ()) -> list[Need]:
        """Everything that a generation and its scoring need; reference: the digests of reference pictures."""
        sampling, norms = generation.sampling, generation.norms
        found = self._inputs(sampling.inputs)
        if any(method.match is not None for method in generation.experiment.methods):
            found += self._inputs(norms.training.inputs, "training ") + self._norms(generation)
        need, reconstructions = self._reconstructions(generation)
        pictures, made = [*sampling.inputs.sources.values(), *reconstructions], [found[0], need]
        for method in generation.experiment.methods:
            need, own = self._images(generation, method)
            made.append(need)
            pictures += own
        digests = {*(each.sha256 for each in pictures), *reference}
        scores = self._scores(generation, digests, sum(need.missing for need in made))
        return [*found, *made[1:], *self._traces(generation), scores]

    # --- inputs -----------------------------------------------------------------------------------------------

    def _inputs(self, inputs: ControlInputs, of: str = "") -> list[Need]:
        """Sources, maps and masks; those that are there are known to `inputs` from now on."""
        keys = inputs.source_keys()
        need, found = self._look(inputs, f"{of}source pictures", "source", keys)
        needs = [need]
        inputs.sources.update(found)
        for name in inputs.conditions:
            known = inputs.map_keys(name)
            wanted = {sample.sources[name] for sample in inputs.samples}
            other = {image: fingerprint([inputs.identities[name], keys[image]]) for image in wanted - known.keys()}
            need, found = self._look(inputs, f"{of}{name} maps", "map", known, other)
            needs.append(need)
            inputs.maps.update({(name, image): each for image, each in found.items()})
        for kind in (CONTROL, EVALUATION):
            need, found = self._look(inputs, f"{of}{kind.replace('_', ' ')}", "mask", inputs.mask_keys(kind))
            inputs.masks.update(found)
            needs += [need] if need.found or need.missing else []
        return needs

    def _look(
        self,
        inputs: ControlInputs,
        what: str,
        kind: str,
        keys: Mapping[Any, str],
        other: Mapping[Any, str] | None = None,
    ) -> tuple[Need, dict[Any, Artefact]]:
        """What is there of `keys`; other: what items are told apart by whose keys are not known yet."""
        found = {item: each for item, key in keys.items() if (each := inputs.folder.peek(kind, key)) is not None}
        missing = [key for item, key in keys.items() if item not in found and self._is_new(kind, key)]
        missing += [token for token in (other or {}).values() if self._is_new(f"{kind} of", token)]
        new = {each.key: each for each in found.values() if self._is_new(kind, each.key)}
        return Need(what, kind, len(new), len(missing), _size(new.values())), found

    def _is_new(self, kind: str, key: str) -> bool:
        """Whether something has not been counted before."""
        if (kind, key) in self.seen:
            return False
        self.seen.add((kind, key))
        return True

    def _norms(self, generation: Generation) -> list[Need]:
        """Residual norms of methods that are matched in strength: of them, and of what they are matched with."""
        norms, sampling = generation.norms, generation.sampling
        matched = [each for each in generation.experiment.methods if each.match is not None]
        measured = {each.name: each for method in matched for each in (method, norms.target(method))}
        missing = [each for each in measured.values() if self.is_open(each) or norms.known(each) is None]
        scenes = len(norms.training.inputs.samples)
        return [
            Need(f"residual norm of {each.name}, scenes", "norm", 0, scenes, 0, sampling.cost(each)._replace(unet=0))
            for each in missing
        ]

    # --- pictures ---------------------------------------------------------------------------------------------

    def _reconstructions(self, generation: Generation) -> tuple[Need, list[Artefact]]:
        inputs = generation.sampling.inputs
        keys = generation.reconstruction_keys()
        other = {image: key for image, key in inputs.source_keys().items() if image not in keys}
        need, found = self._look(inputs, "VAE reconstructions", "reconstruction", keys, other)
        return need, list(found.values())

    def _images(self, generation: Generation, method: Method) -> tuple[Need, list[Artefact]]:
        """A method's images; what another method makes as well is counted there."""
        sampling, ready = generation.sampling, self._settled(generation, method)
        known, missing = [], 0
        for sample, replicate in generation.experiment.images:
            if ready is not None and all(sampling.inputs.is_known(name, sample) for name in method.branches):
                known.append((sample, replicate))
            else:
                what = method.name if ready is None else ready.identity()
                token = fingerprint([what, sampling.seed, sample.id, sample.prompt, replicate])
                missing += self._is_new("image of", token)
        found: dict[str, Artefact] = {}
        for key in sampling.keys(ready, known) if known else ():
            picture = generation.folder.peek("image", key)
            if picture is not None and generation.is_settled(picture):
                found[key] = picture
            else:
                missing += self._is_new("image", key)
        size, cost = _size(found.values()), sampling.cost(method)
        return Need(method.name, "image", len(found), missing, size, cost, method.series), list(found.values())

    def _settled(self, generation: Generation, method: Method) -> Method | None:
        """The method at the settings and the scale at which it runs; None where those are not known yet."""
        if self.is_open(method):
            return None
        if method.match is None:
            return method
        norms = generation.norms
        own, target = norms.known(method), norms.target(method)
        other = None if self.is_open(target) else norms.known(target)
        return None if own is None or other is None else replace(method, scale=method.scale * other / own)

    def _traces(self, generation: Generation) -> list[Need]:
        """Images that are generated once more under a trace."""
        sampling, samples = generation.sampling, generation.tracing.samples_of(generation.experiment)
        needs = []
        for method in generation.experiment.methods if samples else ():
            ready = self._settled(generation, method)
            known = all(sampling.inputs.is_known(name, each) for each in samples for name in method.branches)
            if (
                ready is None
                or not known
                or not generation.tracing.is_there(generation.folder, sampling, ready, samples)
            ):
                needs.append(Need(f"{method.name}, traced", "trace", 0, len(samples), 0, sampling.cost(method)))
        return needs

    # --- scores -----------------------------------------------------------------------------------------------

    def _scores(self, generation: Generation, digests: Collection[str], coming: int) -> Need:
        """Pictures with scores; whether all that is asked for has been measured in them is not looked at.

        digests: of the pictures that are there. coming: how many are not.
        """
        scores = Scores(generation.folder.store.path)
        sizes = [file.stat().st_size for file in map(scores.file, digests) if file.is_file()]
        return Need("scored pictures", "score", len(sizes), len(digests) - len(sizes) + coming, sum(sizes))


def reference_digests(generation: Generation) -> list[str]:
    """By what the scores of an experiment's reference pictures are known."""
    inputs = generation.sampling.inputs
    return [source_key(inputs.image_set, image, inputs.resolution) for image in generation.experiment.reference]


def disk(needs: Sequence[Need], resolution: int) -> int:
    """Bytes that will be written for all that is missing; see :func:`bytes_each`."""
    return round(sum(need.missing * bytes_each(needs, need.kind, resolution)[0] for need in needs))


def bytes_each(needs: Sequence[Need], kind: str, resolution: int) -> tuple[float, bool]:
    """Of one artefact of a kind, and whether that is measured in those that are there or else assumed."""
    own = [need for need in needs if need.kind == kind]
    count, size = sum(need.found for need in own), sum(need.bytes for need in own)
    if size:
        return size / count, True
    if kind == "score":
        return SCORE_BYTES, False
    return (BYTES_A_PIXEL[kind] * resolution**2 + RECORD_BYTES if kind in BYTES_A_PIXEL else 0.0), False


def _size(artefacts: Iterable[Artefact]) -> int:
    return sum(each.path.stat().st_size + RECORD_BYTES for each in artefacts)
