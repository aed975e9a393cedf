"""A suite in the Hub's folder layout: base model, controls, annotators and scorers under one root."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from maxbench.conditions.base import Annotator
from maxbench.errors import UserError
from maxbench.models.control import ADAPTER, POOLED, PROMPT, SPATIAL, Branch, ImagePrompt
from maxbench.models.files import CONFIG, SCHEDULER_CONFIG, digest_of, faults, tokenizer_files, weights_of
from maxbench.models.image_prompt import ImageEncoder, embedding_width, install_image_prompt
from maxbench.models.libraries import diffusers, transformers
from maxbench.models.loading import load_network, load_tokenizer, readable
from maxbench.models.pipeline import Pipeline
from maxbench.names import leaves_folder
from maxbench.store.identity import identity
from maxbench.suites.hub import HubPart, Shelf, megabytes, named

PACKAGED = Path(__file__).parent / "weights"
CLIP = "clip"
"""The text scorer, among the networks of features."""
IMAGE_PROMPT = "image prompt"
"""The kind of a control that has no features to be fused."""
CONTROLS = CONTROLNET, T2I_ADAPTER = "ControlNetModel", "T2IAdapter"
"""The other kinds, by their classes in diffusers."""
BASE = ("vae", "unet", "text_encoder")
TOKENIZER, SCHEDULER = "tokenizer", "scheduler"  # folders of the base model without weights


@dataclass(frozen=True)
class Weights:
    """A network beside the base model: the part of its weights, and a loader called with (folder, device).

    folder: a subfolder of the suite's, or the name of a published part.
    needs: files besides its weights that the loader cannot do without; a published part names its own.
    """

    folder: str
    load: Callable[..., Any]
    needs: Sequence[str] = (CONFIG,)


@dataclass(frozen=True)
class FolderSuite:
    """Everything that has weights, found on this machine and loaded only when asked for.

    A part is a subfolder of `root`, or one that `hub` names: that is looked for under `weights_dir`, then in the Hub's
    cache.

    root: a folder; a relative one is looked up in the current folder, then among the packaged suites.
    places: part -> the folder or file that is read for it, of parts that lie elsewhere on this machine.
    hub: part -> the arguments of a :class:`HubPart`. The base model's parts are unet, vae, text_encoder, tokenizer and
        scheduler.
    weights_dir: a folder in which published parts lie as <organisation>/<name>.
    controls: condition -> part of its ControlNet or T2I-Adapter, or file of its IP-Adapter.
    adapters: condition -> part of a T2I-Adapter, for experiments to put in the place of a ControlNet; null where there
        is none.
    annotators: condition -> the network that draws its maps. scorers: condition -> the network that measures them in
        pictures; where there is none, the annotator does.
    text_scorer: measures how well pictures fit texts; where no other network of features is there, it also gives those
        that distances between sets of pictures are made of.
    features: name -> a network of image features for such distances ("inception" for FID and KID, "dinov2", "cmmd");
        those whose weights are not there are left out, and the tables say so.
    image_encoder: what looks at pictures for IP-Adapters.
    steps, guidance_scale, negative_prompt, control_scale: what experiments use unless they say otherwise.
    megabytes: what the subfolders weigh in all, for the message that says what is missing.
    palette, classes: colour and name of every segmentation class.
    conventions: condition -> what kind of map its control is given, a sentence that tables of it carry.
    categories: category of a data set -> the class that its objects have, where that is another name.
    """

    name: str
    resolution: int
    controls: dict[str, str]
    annotators: dict[str, Weights]
    scorers: dict[str, Weights]
    text_scorer: Weights
    steps: int
    guidance_scale: float
    control_scale: float
    negative_prompt: str = ""
    adapters: dict[str, str | None] = field(default_factory=dict)
    root: str = "."
    hub: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights_dir: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    megabytes: int = 0
    image_encoder: Weights | None = None
    features: dict[str, Weights] = field(default_factory=dict)
    palette: Sequence[Sequence[int]] = ()
    classes: Sequence[str] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.weights_dir and Path(self.weights_dir).expanduser().is_file():
            raise UserError(f"suite.weights_dir is {self.weights_dir}, which is a file; name a folder.")
        for key, part in self._named_parts():
            if not isinstance(part, str) or not part.strip():
                raise UserError(f"suite.{key} is {part!r}; give the path of a folder below the suite's.")
            if leaves_folder(part):  # a link in the suite's folder may lead elsewhere: weights are often kept apart
                raise UserError(
                    f"suite.{key} is '{part}', which leads out of the suite's folder; give a path below it."
                )

    def _named_parts(self) -> Iterator[tuple[str, Any]]:
        """Settings that name a part."""
        yield from ((f"controls.{name}", part) for name, part in self.controls.items())
        yield from ((f"adapters.{name}", part) for name, part in self.adapters.items() if part is not None)
        for group in ("annotators", "scorers"):
            yield from ((f"{group}.{name}.folder", each.folder) for name, each in getattr(self, group).items())
        yield from ((f"features.{name}.folder", each.folder) for name, each in self.features.items())
        yield "text_scorer.folder", self.text_scorer.folder
        if self.image_encoder is not None:
            yield "image_encoder.folder", self.image_encoder.folder

    @property
    def folder(self) -> Path:
        given = Path(self.root)
        return given if given.is_absolute() or given.exists() else PACKAGED / given

    @cached_property
    def published(self) -> dict[str, HubPart]:
        """The parts that are published on the Hub."""
        return {name: HubPart(**entry) for name, entry in self.hub.items() if name not in self.places}

    @cached_property
    def shelf(self) -> Shelf:
        """Where those lie."""
        return Shelf(Path(self.weights_dir).expanduser() if self.weights_dir else None)

    def place(self, part: str) -> Path:
        """The folder or file of a part, whether it is there or not."""
        if part in self.places:
            return Path(self.places[part]).expanduser()
        return self.shelf.place(self.published[part]) if part in self.published else self.folder / part

    def weight_files(self, part: str) -> list[Path]:
        """The state dicts of a part; none where it is not there, or has none."""
        return weights_of(self.place(part))

    def is_image_prompt(self, part: str) -> bool:
        """IP-Adapters have no configuration: they are known by being a file."""
        return (part in self.published and self.published[part].alone) or part.endswith(".safetensors")

    def _beside(self, part: str) -> Sequence[str] | None:
        """The files of a published part besides its state dict; null for a subfolder, of which all count."""
        return self.published[part].beside if part in self.published else None

    def parts(self, conditions: Sequence[str], measured: bool = True) -> list[str]:
        """Parts that an experiment on `conditions` reads; without `measured` those that pictures are made with."""
        controls = [self.controls[name] for name in self._known(conditions)]
        networks = [each.folder for each in self._networks(conditions, measured)]
        return list(dict.fromkeys([*BASE, TOKENIZER, SCHEDULER, *controls, *networks]))

    def published_parts(self, conditions: Sequence[str] | None = None) -> list[str]:
        """Published parts that an experiment on `conditions` can use, those that only add a metric among them; for
        null all of the suite's."""
        features = [each.folder for each in self.features.values()]
        if conditions is None:
            groups = (self.annotators.values(), self.scorers.values(), filter(None, [self.image_encoder]))
            networks = [each.folder for group in groups for each in group]
            controls = [*self.controls.values(), *filter(None, self.adapters.values())]
            named = [*BASE, TOKENIZER, SCHEDULER, *controls, *networks, self.text_scorer.folder, *features]
        else:
            named = [*self.parts(conditions), *features]
        return [part for part in dict.fromkeys(named) if part in self.published]

    def _known(self, conditions: Sequence[str]) -> Sequence[str]:
        for name in conditions:
            if name not in self.controls:
                known = ", ".join(self.controls)
                raise UserError(f"The suite '{self.name}' has no control for '{name}'; it has {known}.")
        return conditions

    def _networks(self, conditions: Sequence[str], measured: bool = True) -> list[Weights]:
        """Annotators and scorers of `conditions`, where something is measured, and what reads an image prompt."""
        networks = []
        if measured:
            groups = (self.annotators, self.scorers)
            networks = [group[name] for name in conditions for group in groups if name in group]
            networks.append(self.text_scorer)
            networks += [self.features[name] for name in self.feature_names if name in self.features]
        prompts = [name for name in conditions if self.is_image_prompt(self.controls[name])]
        if len(prompts) > 1:
            raise UserError(f"{' and '.join(prompts)} are image prompts; a U-Net takes one of them at a time.")
        if prompts:
            if self.image_encoder is None:
                raise UserError(
                    f"The suite '{self.name}' has an IP-Adapter and no image encoder; set suite.image_encoder."
                )
            networks.append(self.image_encoder)
        return networks

    def _needs(self, conditions: Sequence[str], measured: bool = True) -> dict[str, tuple[str, ...]]:
        """Part -> the files besides its weights that loading it takes."""
        controls = [self.controls[name] for name in self._known(conditions)]
        needs = {part: () if self.is_image_prompt(part) else (CONFIG,) for part in (*BASE, *controls)}
        needs |= {TOKENIZER: tokenizer_files(self.place(TOKENIZER)), SCHEDULER: (SCHEDULER_CONFIG,)}
        for network in self._networks(conditions, measured):
            needs[network.folder] = (*needs.get(network.folder, ()), *network.needs)
        return needs | {part: tuple(self.published[part].beside) for part in needs if part in self.published}

    def missing(self, conditions: Sequence[str]) -> list[Path]:
        """Parts without weights or with damaged ones, and files that are not there or not whole."""
        absent = [self.place(part) for part in self.absent(conditions)]
        return [*absent, *dict(self._faults(conditions))]

    def absent(self, conditions: Sequence[str], measured: bool = True) -> list[str]:
        """Parts that are not there, of those that an experiment on `conditions` reads; see :meth:`parts`."""
        return [part for part in self.parts(conditions, measured) if not self._is_there(part)]

    def _is_there(self, part: str) -> bool:
        if part in self.published:
            return self.shelf.find(self.published[part]) is not None
        return part in (TOKENIZER, SCHEDULER) or bool(self.weight_files(part))

    def _faults(self, conditions: Sequence[str], measured: bool = True) -> Iterator[tuple[Path, str]]:
        absent = self.absent(conditions, measured)
        for part, needed in self._needs(conditions, measured).items():
            if part not in absent:
                yield from faults(self.place(part), needed, self._beside(part))

    def require(self, conditions: Sequence[str], measured: bool = True) -> None:
        """Raise a UserError that says what is missing, how big it is and where it goes, or which file is damaged.

        measured: whether annotators and scorers are needed as well, or only what makes pictures.
        """
        self._refuse(self.absent(conditions, measured), self._faults(conditions, measured))

    def require_readers(self, networks: Sequence[Weights | None]) -> None:
        """The same of some annotators and scorers; None is one that needs no weights."""
        needed = {each.folder: each.needs for each in networks if each is not None}
        damaged = (
            fault for part, needs in needed.items() for fault in faults(self.place(part), needs, self._beside(part))
        )
        self._refuse([part for part in needed if not self._is_there(part)], damaged)

    def _refuse(self, absent: Sequence[str], damaged: Iterable[tuple[Path, str]]) -> None:
        """UserError for parts that are not there, or else for the first damaged file; it is looked for only then."""
        if published := [self.published[part] for part in absent if part in self.published]:
            raise UserError(self._lacking(published))
        if absent:
            raise UserError(
                f"The suite '{self.name}' lacks the weights of {', '.join(absent)} under {self.folder}; put the "
                f"suite's folder there ({self.megabytes} MB in all, it comes with the package) or train it with "
                "`python scripts/train_miniature.py`."
            )
        for path, said in damaged:
            raise UserError(f"{path} {said}, and the suite '{self.name}' needs it; restore it.")

    def _lacking(self, parts: Sequence[HubPart]) -> str:
        """What to fetch, how big it is, and where it would go."""
        total = sum(part.size for part in parts)
        size = f", {megabytes(total)} in all" if total and len(parts) > 1 else ""
        setting = f" suite.weights_dir={self.weights_dir}" if self.weights_dir else ""
        home = self.shelf.home(parts[0]) if self.weights_dir else "suite.weights_dir=DIR as DIR/" + parts[0].id
        others = [f"{revision[:8]} of {part.id}" for part in parts for revision in self.shelf.others(part)]
        kept = f" (the Hub's cache has other revisions: {', '.join(others[:3])})" if others else ""
        return (
            f"The suite '{self.name}' lacks {named(parts)}{size}{kept}; fetch what is missing with "
            f"`python -m maxbench data weights suite={self.name}{setting} experiment=...`, or put it where it is "
            f"looked for: {home}{' and so on' if len(parts) > 1 else ''}."
        )

    def digest(self, part: str) -> str:
        """SHA-256 of everything in a part that its loader could read; changes with it and with nothing else."""
        if leaves_folder(part) or not self.place(part).exists():
            raise UserError(f"The suite '{self.name}' has no '{part}' under {self.folder}; restore its folder.")
        return digest_of(self.place(part), self._beside(part))

    def fingerprint(self, conditions: Sequence[str]) -> dict[str, str]:
        """The digest of every part that bears on an experiment."""
        self.require(conditions)
        return {part: self.digest(part) for part in self.parts(conditions)}

    def origins(self, conditions: Sequence[str]) -> dict[str, dict[str, str | None]]:
        """Published part -> its id and the commit that its files are of, null where nobody wrote that down."""
        return {
            part: {"id": self.published[part].id, "revision": self.shelf.revision(self.published[part])}
            for part in self.parts(conditions)
            if part in self.published
        }

    def base_identity(self) -> dict[str, str]:
        """Part -> digest, of all that every picture depends on."""
        return {part: self.digest(part) for part in (*BASE, TOKENIZER, SCHEDULER)}

    def control_identity(self, condition: str) -> dict[str, Any]:
        """What a condition's control is: its digest, and of an image prompt the encoder's."""
        part = self.controls[condition]
        control: dict[str, Any] = {"weights": self.digest(part)}
        if self.is_image_prompt(part):
            control["encoder"] = self.network_identity(self.image_encoder)
        return control

    def network_identity(self, network: Weights) -> dict[str, Any]:
        """What an annotator or a scorer is, as plain JSON: the digest of its files, and how they are loaded."""
        return {"weights": self.digest(network.folder), "load": identity(network.load)}

    def annotator_identity(self, condition: str) -> dict[str, Any] | None:
        """What draws a condition's maps; None where arithmetic does."""
        network = self.annotators.get(condition)
        return None if network is None else self.network_identity(network)

    def scorer_identity(self, kind: str, condition: str) -> dict[str, Any] | None:
        """What measures: kind is "clip", "features" of a network's name, or "scorer" or "annotator" of a condition.

        None where arithmetic does.
        """
        if kind == CLIP or (kind == "features" and condition == CLIP):
            return self.network_identity(self.text_scorer)
        if kind == "features":
            return self.network_identity(self.features[condition])
        if kind == "annotator" or condition not in self.scorers:
            return self.annotator_identity(condition)
        return self.network_identity(self.scorers[condition])

    def scorer_names(self, conditions: Sequence[str]) -> dict[str, str]:
        """What scores, by the name and revision it has in tables: "clip", networks of features, each condition's."""
        scorers = {**self.annotators, **self.scorers}
        features = {name: self.features[name] for name in self.feature_names if name in self.features}
        return self._named(conditions, {CLIP: self.text_scorer, **features, **_of(conditions, scorers)})

    def annotator_names(self, conditions: Sequence[str]) -> dict[str, str]:
        """The same of the annotators that are not the scorers themselves."""
        return self._named(conditions, _of([name for name in conditions if name in self.scorers], self.annotators))

    def _named(self, conditions: Sequence[str], networks: dict[str, Weights]) -> dict[str, str]:
        self.require(conditions)
        return {name: self._title(network.folder) for name, network in networks.items()}

    def _title(self, part: str) -> str:
        """A part as tables name it: where it comes from, and the beginning of its digest."""
        name = self.published[part].id if part in self.published else f"{self.name}/{part}"
        return f"{name}@{self.digest(part)[:8]}"

    def pipeline(self, conditions: Sequence[str], device: torch.device, dtype: torch.dtype) -> Pipeline:
        """The base model with the controls of `conditions`, in evaluation mode.

        The autoencoder is float32 whatever the dtype: in half precision its decoder may overflow.
        """
        self.require(conditions, measured=False)

        def load(kind: type, part: str, dtype: torch.dtype = dtype) -> Any:
            return load_network(kind, self.place(part), device, dtype)

        unet = load(diffusers.UNet2DConditionModel, "unet")
        text_encoder = load(transformers.CLIPTextModel, "text_encoder")

        def control(part: str) -> Branch:
            if self.is_image_prompt(part):
                return self._image_prompt(unet, part, device)
            return load(getattr(diffusers, self._kind(part)), part)

        return Pipeline(
            vae=load(diffusers.AutoencoderKL, "vae", torch.float32),
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=load_tokenizer(self.place(TOKENIZER), text_encoder.config.vocab_size),
            scheduler_config=self.scheduler_config(),
            controls={name: control(self.controls[name]) for name in conditions},
        )

    def _image_prompt(self, unet: diffusers.UNet2DConditionModel, part: str, device: torch.device) -> ImagePrompt:
        with readable(self.place(part)):
            install_image_prompt(unet, self.place(part))
        encoder = self._load(self.image_encoder, device)
        if isinstance(encoder, ImageEncoder) and encoder.width != embedding_width(unet):
            raise UserError(
                f"{self.place(part)} reads pictures of width {embedding_width(unet)}, but the image encoder in "
                f"{self.image_encoder.folder} gives {encoder.width}; take both from one IP-Adapter."
            )
        return ImagePrompt(unet, encoder)

    def control_kind(self, condition: str) -> str:
        """What a condition's control is: the name of its class, or IMAGE_PROMPT."""
        part = self.controls[condition]
        return IMAGE_PROMPT if self.is_image_prompt(part) else self._kind(part)

    def branch_kind(self, condition: str) -> str:
        """When a condition's control runs, see :func:`maxbench.models.control.kind_of`."""
        part = self.controls[condition]
        if self.is_image_prompt(part):
            return PROMPT
        if self._kind(part) == T2I_ADAPTER:
            return ADAPTER
        return POOLED if self._config(part).get("global_pool_conditions") else SPATIAL

    def blocks(self, condition: str) -> tuple[int, int] | None:
        """Down blocks and residuals of a condition's control, of an adapter its levels; None of an image prompt."""
        part = self.controls[condition]
        if self.is_image_prompt(part):
            return None
        said = self._config(part)
        if self._kind(part) == T2I_ADAPTER:
            return len(said["channels"]), len(said["channels"])
        down = len(said["block_out_channels"])
        return down, 1 + down * (said["layers_per_block"] + 1)  # conv_in's, layers', downsamplers' and the middle's

    def scheduler_config(self) -> dict:
        """The base model's configuration of a scheduler."""
        return _scheduler_config(self.place(SCHEDULER))

    def latent_shape(self) -> tuple[int, int, int]:
        """Of one picture's latents: (channels, height, width)."""
        said = self._config("vae")
        side = self.resolution // 2 ** (len(said.get("block_out_channels", (64,))) - 1)
        return said.get("latent_channels", 4), side, side

    def _kind(self, part: str) -> str:
        """The name of a control's class in diffusers, as its own configuration says it."""
        said = self._config(part).get("_class_name")
        if said not in CONTROLS:
            raise UserError(f"{self.place(part)} holds a {said}; a control is one of {', '.join(CONTROLS)}.")
        return said

    def _config(self, part: str) -> dict[str, Any]:
        """A network's own configuration; its weights are not loaded."""
        folder = self.place(part)
        with readable(folder):
            return json.loads((folder / CONFIG).read_text(encoding="utf-8"))

    def annotator(self, condition: str, device: torch.device) -> Annotator | None:
        """The network that draws a condition's maps; None where arithmetic does."""
        return self._load(self.annotators.get(condition), device)

    def scorer(self, condition: str, device: torch.device) -> Annotator | None:
        """The network that measures a condition in pictures; None where arithmetic does."""
        return self._load(self.scorers.get(condition, self.annotators.get(condition)), device)

    def self_consistency(self, condition: str, device: torch.device) -> Annotator | None:
        """The annotator once more, as a scorer, where the scorer is another network; else None."""
        return self.annotator(condition, device) if condition in self.scorers else None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The networks of features whose weights are there; without any, the text scorer's own."""
        return tuple(name for name, each in self.features.items() if self.weight_files(each.folder)) or (CLIP,)

    def notes(self, conditions: Sequence[str]) -> tuple[str, ...]:
        """What tables say of the maps of `conditions`, and of networks of features that are not there."""
        absent = [name for name in self.features if name not in self.feature_names]
        unmeasured = (f"Not measured, for want of weights: distances on {', '.join(absent)}.",) if absent else ()
        return (*(self.conventions[name] for name in conditions if name in self.conventions), *unmeasured)

    def feature_network(self, name: str, device: torch.device) -> Any:
        """What looks at pictures for distances between sets."""
        return self.clip_scorer(device) if name == CLIP else self._load(self.features[name], device)

    def clip_scorer(self, device: torch.device) -> Any:
        """The text-image scorer."""
        return self._load(self.text_scorer, device)

    def _load(self, network: Weights | None, device: torch.device) -> Any:
        if network is None:
            return None
        folder = self.place(network.folder)
        with readable(folder):
            return network.load(folder, device)


def _of(conditions: Sequence[str], networks: dict[str, Weights]) -> dict[str, Weights]:
    return {name: networks[name] for name in conditions if name in networks}


def _scheduler_config(folder: Path) -> dict:
    with readable(folder):
        # any scheduler's config: every sampler starts from it
        return dict(json.loads((folder / SCHEDULER_CONFIG).read_text(encoding="utf-8")))
