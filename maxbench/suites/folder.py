"""A suite in the Hub's folder layout: base model, controls, annotators and scorers under one root."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, T2IAdapter, UNet2DConditionModel
from transformers import CLIPTextModel

from maxbench.conditions.base import Annotator
from maxbench.errors import UserError
from maxbench.models.control import ADAPTER, POOLED, PROMPT, SPATIAL, Branch, ImagePrompt
from maxbench.models.files import CONFIG, SCHEDULER_CONFIG, digest_of, faults, tokenizer_files, weights_of
from maxbench.models.image_prompt import ImageEncoder, embedding_width, install_image_prompt
from maxbench.models.loading import load_network, load_tokenizer, readable
from maxbench.models.pipeline import Pipeline
from maxbench.names import leaves_folder
from maxbench.store.identity import identity

PACKAGED = Path(__file__).parent / "weights"
CLIP = "clip"
"""The text scorer, among the networks of features."""
IMAGE_PROMPT = "image prompt"
"""The kind of a control that has no features to be fused."""
BASE = ("vae", "unet", "text_encoder")
TOKENIZER, SCHEDULER = "tokenizer", "scheduler"  # folders of the base model without weights


def weight_files(root: Path, part: str) -> list[Path]:
    """The weights of a part: a subfolder, or a single file as IP-Adapters come."""
    return weights_of(root / part)


def is_image_prompt(part: str) -> bool:
    """IP-Adapters have no configuration: they are known by being a file."""
    return part.endswith(".safetensors")


@dataclass(frozen=True)
class Weights:
    """A network beside the base model: the subfolder of its weights, and a loader called with (folder, device).

    needs: files besides its weights that the loader cannot do without.
    """

    folder: str
    load: Callable[..., Any]
    needs: Sequence[str] = (CONFIG,)


@dataclass(frozen=True)
class FolderSuite:
    """Everything that has weights, found under `root` and loaded only when asked for.

    root: a folder; a relative one is looked up in the current folder, then among the packaged suites.
    controls: condition -> subfolder of its ControlNet or T2I-Adapter, or file of its IP-Adapter.
    adapters: condition -> subfolder of a T2I-Adapter, for experiments to put in the place of a ControlNet.
    annotators: condition -> the network that draws its maps. scorers: condition -> the network that measures them in
        pictures; where there is none, the annotator does.
    text_scorer: measures how well pictures fit texts; where no other network of features is there, it also gives those
        that distances between sets of pictures are made of.
    features: name -> a network of image features for such distances ("inception" for FID and KID, "dinov2", "cmmd");
        those whose weights are not there are left out, and the tables say so.
    image_encoder: what looks at pictures for IP-Adapters.
    steps, guidance_scale, control_scale: what experiments use unless they say otherwise.
    megabytes: what all of it weighs, for the message that says what is missing.
    palette, classes: colour and name of every segmentation class.
    """

    name: str
    root: str
    resolution: int
    controls: dict[str, str]
    adapters: dict[str, str]
    annotators: dict[str, Weights]
    scorers: dict[str, Weights]
    text_scorer: Weights
    megabytes: int
    steps: int
    guidance_scale: float
    control_scale: float
    image_encoder: Weights | None = None
    features: dict[str, Weights] = field(default_factory=dict)
    palette: Sequence[Sequence[int]] = ()
    classes: Sequence[str] = ()

    def __post_init__(self):
        for key, part in self._named_parts():
            if not isinstance(part, str) or not part.strip():
                raise UserError(f"suite.{key} is {part!r}; give the path of a folder below the suite's.")
            if leaves_folder(part):  # a link in the suite's folder may lead elsewhere: weights are often kept apart
                raise UserError(
                    f"suite.{key} is '{part}', which leads out of the suite's folder; give a path below it."
                )

    def _named_parts(self) -> Iterator[tuple[str, Any]]:
        """Settings that name a part."""
        for group in ("controls", "adapters"):
            yield from ((f"{group}.{name}", part) for name, part in getattr(self, group).items())
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

    def parts(self, conditions: Sequence[str]) -> list[str]:
        """Folders and files that an experiment on `conditions` reads."""
        controls = [self.controls[name] for name in self._known(conditions)]
        networks = [each.folder for each in self._networks(conditions)]
        return list(dict.fromkeys([*BASE, TOKENIZER, SCHEDULER, *controls, *networks]))

    def _known(self, conditions: Sequence[str]) -> Sequence[str]:
        for name in conditions:
            if name not in self.controls:
                known = ", ".join(self.controls)
                raise UserError(f"The suite '{self.name}' has no control for '{name}'; it has {known}.")
        return conditions

    def _networks(self, conditions: Sequence[str]) -> list[Weights]:
        """Annotators and scorers of `conditions`, and what reads an image prompt."""
        networks = [group[name] for name in conditions for group in (self.annotators, self.scorers) if name in group]
        networks.append(self.text_scorer)
        networks += [self.features[name] for name in self.feature_names if name in self.features]
        prompts = [name for name in conditions if is_image_prompt(self.controls[name])]
        if len(prompts) > 1:
            raise UserError(f"{' and '.join(prompts)} are image prompts; a U-Net takes one of them at a time.")
        if prompts:
            if self.image_encoder is None:
                raise UserError(
                    f"The suite '{self.name}' has an IP-Adapter and no image encoder; set suite.image_encoder."
                )
            networks.append(self.image_encoder)
        return networks

    def _needs(self, conditions: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Part -> the files besides its weights that loading it takes."""
        controls = [self.controls[name] for name in self._known(conditions)]
        needs = {part: () if is_image_prompt(part) else (CONFIG,) for part in (*BASE, *controls)}
        needs |= {TOKENIZER: tokenizer_files(self.folder / TOKENIZER), SCHEDULER: (SCHEDULER_CONFIG,)}
        for network in self._networks(conditions):
            needs[network.folder] = (*needs.get(network.folder, ()), *network.needs)
        return needs

    def missing(self, conditions: Sequence[str]) -> list[Path]:
        """Parts without weights or with damaged ones, and files that are not there or not whole."""
        return [*self._absent(conditions), *dict(self._faults(conditions))]

    def _absent(self, conditions: Sequence[str]) -> list[Path]:
        weighty = (part for part in self.parts(conditions) if part not in (TOKENIZER, SCHEDULER))
        return [self.folder / part for part in weighty if not weight_files(self.folder, part)]

    def _faults(self, conditions: Sequence[str]) -> Iterator[tuple[Path, str]]:
        absent = self._absent(conditions)
        for part, needed in self._needs(conditions).items():
            if self.folder / part not in absent:
                yield from faults(self.folder / part, needed)

    def require(self, conditions: Sequence[str]) -> None:
        """Raise a UserError that says what is missing, how big it is and where it goes, or which file is damaged."""
        if absent := self._absent(conditions):
            names = ", ".join(str(path.relative_to(self.folder)) for path in absent)
            raise UserError(
                f"The suite '{self.name}' lacks the weights of {names} under {self.folder}; put the suite's folder "
                f"there ({self.megabytes} MB in all, it comes with the package) or train it with "
                "`python scripts/train_miniature.py`."
            )
        for path, said in self._faults(conditions):
            raise UserError(f"{path} {said}, and the suite '{self.name}' needs it; restore it.")

    def digest(self, part: str) -> str:
        """SHA-256 of everything in a part that its loader could read; changes with it and with nothing else."""
        if leaves_folder(part) or not (self.folder / part).exists():
            raise UserError(f"The suite '{self.name}' has no '{part}' under {self.folder}; restore its folder.")
        return digest_of(self.folder / part)

    def fingerprint(self, conditions: Sequence[str]) -> dict[str, str]:
        """The digest of every part that bears on an experiment."""
        self.require(conditions)
        return {part: self.digest(part) for part in self.parts(conditions)}

    def base_identity(self) -> dict[str, str]:
        """Part -> digest, of all that every picture depends on."""
        return {part: self.digest(part) for part in (*BASE, TOKENIZER, SCHEDULER)}

    def control_identity(self, condition: str) -> dict[str, Any]:
        """What a condition's control is: its digest, and of an image prompt the encoder's."""
        part = self.controls[condition]
        control: dict[str, Any] = {"weights": self.digest(part)}
        if is_image_prompt(part):
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
        return {
            name: f"{self.name}/{network.folder}@{self.digest(network.folder)[:8]}"
            for name, network in networks.items()
        }

    def pipeline(self, conditions: Sequence[str], device: torch.device, dtype: torch.dtype) -> Pipeline:
        """The base model with the controls of `conditions`, in evaluation mode.

        The autoencoder is float32 whatever the dtype: in half precision its decoder may overflow.
        """
        self.require(conditions)

        def load(kind: type, part: str, dtype: torch.dtype = dtype) -> Any:
            return load_network(kind, self.folder / part, device, dtype)

        unet, text_encoder = load(UNet2DConditionModel, "unet"), load(CLIPTextModel, "text_encoder")

        def control(part: str) -> Branch:
            if is_image_prompt(part):
                return self._image_prompt(unet, part, device)
            return load(self._kind(part), part)

        return Pipeline(
            vae=load(AutoencoderKL, "vae", torch.float32),
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=load_tokenizer(self.folder / TOKENIZER, text_encoder.config.vocab_size),
            scheduler_config=self.scheduler_config(),
            controls={name: control(self.controls[name]) for name in conditions},
        )

    def _image_prompt(self, unet: UNet2DConditionModel, part: str, device: torch.device) -> ImagePrompt:
        with readable(self.folder / part):
            install_image_prompt(unet, self.folder / part)
        encoder = self._load(self.image_encoder, device)
        if isinstance(encoder, ImageEncoder) and encoder.width != embedding_width(unet):
            raise UserError(
                f"{self.folder / part} reads pictures of width {embedding_width(unet)}, but the image encoder in "
                f"{self.image_encoder.folder} gives {encoder.width}; take both from one IP-Adapter."
            )
        return ImagePrompt(unet, encoder)

    def control_kind(self, condition: str) -> str:
        """What a condition's control is: the name of its class, or IMAGE_PROMPT."""
        part = self.controls[condition]
        return IMAGE_PROMPT if is_image_prompt(part) else self._kind(part).__name__

    def branch_kind(self, condition: str) -> str:
        """When a condition's control runs, see :func:`maxbench.models.control.kind_of`; its weights are not loaded."""
        part = self.controls[condition]
        if is_image_prompt(part):
            return PROMPT
        if self._kind(part) is T2IAdapter:
            return ADAPTER
        with readable(self.folder / part):
            said = json.loads((self.folder / part / CONFIG).read_text(encoding="utf-8"))
        return POOLED if said.get("global_pool_conditions") else SPATIAL

    def scheduler_config(self) -> dict:
        """The base model's configuration of a scheduler."""
        return _scheduler_config(self.folder / SCHEDULER)

    def _kind(self, subfolder: str) -> type[ControlNetModel] | type[T2IAdapter]:
        """A control's class, as its own configuration names it."""
        with readable(self.folder / subfolder):
            said = json.loads((self.folder / subfolder / CONFIG).read_text(encoding="utf-8")).get("_class_name")
        kinds = {kind.__name__: kind for kind in (ControlNetModel, T2IAdapter)}
        if said not in kinds:
            raise UserError(f"{self.folder / subfolder} holds a {said}; a control is one of {', '.join(kinds)}.")
        return kinds[said]

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
        return tuple(name for name, each in self.features.items() if weight_files(self.folder, each.folder)) or (CLIP,)

    @property
    def feature_notes(self) -> tuple[str, ...]:
        """What tables say of networks of features that are not there."""
        absent = [name for name in self.features if name not in self.feature_names]
        return (f"Not measured, for want of weights: distances on {', '.join(absent)}.",) if absent else ()

    def feature_network(self, name: str, device: torch.device) -> Any:
        """What looks at pictures for distances between sets."""
        return self.clip_scorer(device) if name == CLIP else self._load(self.features[name], device)

    def clip_scorer(self, device: torch.device) -> Any:
        """The text-image scorer."""
        return self._load(self.text_scorer, device)

    def _load(self, network: Weights | None, device: torch.device) -> Any:
        if network is None:
            return None
        folder = self.folder / network.folder
        with readable(folder):
            return network.load(folder, device)


def _of(conditions: Sequence[str], networks: dict[str, Weights]) -> dict[str, Weights]:
    return {name: networks[name] for name in conditions if name in networks}


def _scheduler_config(folder: Path) -> dict:
    with readable(folder):
        # any scheduler's config: every sampler starts from it
        return dict(DDPMScheduler.load_config(folder, local_files_only=True))
