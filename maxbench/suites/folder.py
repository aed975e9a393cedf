"""A suite in the Hub's folder layout: base model, ControlNets, annotators and scorer under one root."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, T2IAdapter, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from maxbench.conditions.base import Annotator
from maxbench.errors import UserError
from maxbench.models.control import Branch, ImagePrompt
from maxbench.models.image_prompt import install_image_prompt
from maxbench.models.pipeline import Pipeline
from maxbench.store.identity import identity

PACKAGED = Path(__file__).parent / "weights"
BASE = ("vae", "unet", "text_encoder")  # subfolders with weights; tokenizer and scheduler have none


def weight_files(root: Path, part: str) -> list[Path]:
    """The weights of a part: a subfolder, or a single file as IP-Adapters come."""
    path = root / part
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def is_image_prompt(part: str) -> bool:
    """IP-Adapters have no configuration: they are known by being a file."""
    return part.endswith(".safetensors")


@lru_cache
def _sha256(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Weights:
    """A network beside the base model: the subfolder of its weights, and a loader called with (folder, device)."""

    folder: str
    load: Callable[..., Any]


@dataclass(frozen=True)
class FolderSuite:
    """Everything that has weights, found under `root` and loaded only when asked for.

    root: a folder; a relative one is looked up in the current folder, then among the packaged suites.
    controls: condition -> subfolder of its ControlNet or T2I-Adapter, or file of its IP-Adapter.
    adapters: condition -> subfolder of a T2I-Adapter, for experiments to put in the place of a ControlNet.
    annotators: condition -> the network that draws its maps. scorers: condition -> the network that measures them in
        pictures; where there is none, the annotator does.
    text_scorer: measures how well pictures fit texts, and gives the image features of FID and KID.
    image_encoder: what looks at pictures for IP-Adapters.
    steps, guidance_scale, control_scale: what experiments use unless they say otherwise.
    megabytes: what all of it weighs, for the message that says what is missing.
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
    palette: Sequence[Sequence[int]] = ()

    @property
    def folder(self) -> Path:
        given = Path(self.root)
        return given if given.is_absolute() or given.exists() else PACKAGED / given

    def parts(self, conditions: Sequence[str]) -> list[str]:
        """Subfolders whose weights an experiment on `conditions` needs."""
        unknown = [name for name in conditions if name not in self.controls]
        if unknown:
            known = ", ".join(self.controls)
            raise UserError(f"The suite '{self.name}' has no control for '{unknown[0]}'; it has {known}.")
        observers = (group[name] for name in conditions for group in (self.annotators, self.scorers) if name in group)
        controls = [self.controls[name] for name in conditions]
        networks = [*observers, self.text_scorer]
        prompts = [name for name in conditions if is_image_prompt(self.controls[name])]
        if len(prompts) > 1:
            raise UserError(f"{' and '.join(prompts)} are image prompts; a U-Net takes one of them at a time.")
        if prompts:
            if self.image_encoder is None:
                raise UserError(
                    f"The suite '{self.name}' has an IP-Adapter and no image encoder; set suite.image_encoder."
                )
            networks.append(self.image_encoder)
        return list(dict.fromkeys([*BASE, *controls, *(each.folder for each in networks)]))

    def missing(self, conditions: Sequence[str]) -> list[Path]:
        return [self.folder / part for part in self.parts(conditions) if not weight_files(self.folder, part)]

    def require(self, conditions: Sequence[str]) -> None:
        """Raise a UserError that says what is missing, how big it is and where it goes."""
        missing = self.missing(conditions)
        if missing:
            names = ", ".join(str(path.relative_to(self.folder)) for path in missing)
            raise UserError(
                f"The suite '{self.name}' lacks the weights of {names} under {self.folder}; put the suite's folder "
                f"there ({self.megabytes} MB in all, it comes with the package) or train it with "
                "`python scripts/train_miniature.py`."
            )

    def fingerprint(self, conditions: Sequence[str]) -> dict[str, str]:
        """SHA-256 of every weight file that bears on an experiment, by its place."""
        self.require(conditions)
        files = [file for part in self.parts(conditions) for file in weight_files(self.folder, part)]
        return {
            str(file.relative_to(self.folder)): _sha256(file, file.stat().st_mtime_ns, file.stat().st_size)
            for file in files
        }

    def digest(self, part: str) -> str:
        """SHA-256 of every file of a part that its loader can read, by name and content."""
        path = self.folder / part
        files = (
            [path]
            if path.is_file()
            else sorted(
                file
                for file in path.rglob("*")
                if file.is_file() and file.suffix not in (".md", ".png") and not file.name.startswith(".")
            )
        )
        named = [
            (str(file.relative_to(self.folder)), _sha256(file, file.stat().st_mtime_ns, file.stat().st_size))
            for file in files
        ]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def base_identity(self) -> dict[str, str]:
        """Part -> digest, of all that every picture depends on."""
        return {part: self.digest(part) for part in (*BASE, "tokenizer", "scheduler")}

    def control_identity(self, condition: str) -> dict[str, Any]:
        """What a condition's control is: its digest, and of an image prompt the encoder's."""
        part = self.controls[condition]
        control: dict[str, Any] = {"weights": self.digest(part)}
        if is_image_prompt(part):
            control["encoder"] = self.network_identity(self.image_encoder)
        return control

    def network_identity(self, network: Weights) -> dict[str, Any]:
        """What an annotator or a scorer is: the digest of its weights, and how it is loaded."""
        return {"weights": self.digest(network.folder), "load": identity(network.load)}

    def annotator_identity(self, condition: str) -> dict[str, Any] | None:
        """What draws a condition's maps; None where arithmetic does."""
        network = self.annotators.get(condition)
        return None if network is None else self.network_identity(network)

    def scorer_identity(self, kind: str, condition: str) -> dict[str, Any] | None:
        """What measures: kind is "clip", or "scorer" or "annotator" of a condition; None where arithmetic does."""
        if kind == "clip":
            return self.network_identity(self.text_scorer)
        if kind == "annotator" or condition not in self.scorers:
            return self.annotator_identity(condition)
        return self.network_identity(self.scorers[condition])

    def scorer_names(self, conditions: Sequence[str]) -> dict[str, str]:
        """What scores, by the name and revision it has in tables: "clip", and each condition with a network."""
        scorers = {**self.annotators, **self.scorers}
        return self._named(conditions, {"clip": self.text_scorer, **_of(conditions, scorers)})

    def annotator_names(self, conditions: Sequence[str]) -> dict[str, str]:
        """The same of the annotators that are not the scorers themselves."""
        return self._named(conditions, _of([name for name in conditions if name in self.scorers], self.annotators))

    def _named(self, conditions: Sequence[str], networks: dict[str, Weights]) -> dict[str, str]:
        revisions = self.fingerprint(conditions)

        def named(subfolder: str) -> str:
            file = weight_files(self.folder, subfolder)[0]
            return f"{self.name}/{subfolder}@{revisions[str(file.relative_to(self.folder))][:8]}"

        return {name: named(network.folder) for name, network in networks.items()}

    def pipeline(self, conditions: Sequence[str], device: torch.device, dtype: torch.dtype) -> Pipeline:
        """The base model with the controls of `conditions`, in evaluation mode.

        The autoencoder is float32 whatever the dtype: in half precision its decoder may overflow.
        """
        self.require(conditions)
        _quieten()

        def load(kind: type, subfolder: str, dtype: torch.dtype = dtype):
            with _readable(self.folder / subfolder):
                net = kind.from_pretrained(self.folder / subfolder, torch_dtype=dtype)
            return net.to(device).eval().requires_grad_(False)

        unet = load(UNet2DConditionModel, "unet")

        def control(part: str) -> Branch:
            if not is_image_prompt(part):
                return load(self._kind(part), part)
            with _readable(self.folder / part):
                install_image_prompt(unet, self.folder / part)
            return ImagePrompt(unet, self._load(self.image_encoder, device))

        return Pipeline(
            vae=load(AutoencoderKL, "vae", torch.float32),
            unet=unet,
            text_encoder=load(CLIPTextModel, "text_encoder"),
            tokenizer=self._tokenizer(),
            scheduler_config=_scheduler_config(self.folder / "scheduler"),
            controls={name: control(self.controls[name]) for name in conditions},
        )

    def _kind(self, subfolder: str) -> type[ControlNetModel] | type[T2IAdapter]:
        """A control's class, as its own configuration names it."""
        with _readable(self.folder / subfolder):
            said = json.loads((self.folder / subfolder / "config.json").read_text()).get("_class_name")
        kinds = {kind.__name__: kind for kind in (ControlNetModel, T2IAdapter)}
        if said not in kinds:
            raise UserError(f"{self.folder / subfolder} holds a {said}; a control is one of {', '.join(kinds)}.")
        return kinds[said]

    def _tokenizer(self) -> CLIPTokenizer:
        with _readable(self.folder / "tokenizer"):
            return CLIPTokenizer.from_pretrained(self.folder / "tokenizer")

    def annotator(self, condition: str, device: torch.device) -> Annotator | None:
        """The network that draws a condition's maps; None where arithmetic does."""
        return self._load(self.annotators.get(condition), device)

    def scorer(self, condition: str, device: torch.device) -> Annotator | None:
        """The network that measures a condition in pictures; None where arithmetic does."""
        return self._load(self.scorers.get(condition, self.annotators.get(condition)), device)

    def self_consistency(self, condition: str, device: torch.device) -> Annotator | None:
        """The annotator once more, as a scorer, where the scorer is another network; else None."""
        return self.annotator(condition, device) if condition in self.scorers else None

    def clip_scorer(self, device: torch.device) -> Any:
        """The text-image scorer."""
        return self._load(self.text_scorer, device)

    def _load(self, network: Weights | None, device: torch.device) -> Any:
        if network is None:
            return None
        _quieten()
        folder = self.folder / network.folder
        with _readable(folder):
            return network.load(folder, device)


def _of(conditions: Sequence[str], networks: dict[str, Weights]) -> dict[str, Weights]:
    return {name: networks[name] for name in conditions if name in networks}


def _scheduler_config(folder: Path) -> dict:
    with _readable(folder):
        return dict(DDPMScheduler.load_config(folder))  # any scheduler's config: every sampler starts from it


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """What a library says of a damaged or incomplete folder becomes a sentence that names the folder."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{folder} cannot be loaded ({type(error).__name__}: {said[:200]}); restore that folder."
        ) from error


def _quieten() -> None:
    """The libraries' progress bars and hints are not ours to show."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
