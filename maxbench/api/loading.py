"""What loads a pipeline: a suite by its name, published models by their ids, or folders of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from maxbench.api.maps import Given
from maxbench.api.pipeline import MultiControlPipeline
from maxbench.configuration.component import CONDITION, SAMPLER, component
from maxbench.configuration.compose import CONF, compose, hydra_on, plain
from maxbench.configuration.objects import make_precision, pick_device
from maxbench.configuration.schema import check, nearest
from maxbench.errors import UserError
from maxbench.generation.networks import Networks
from maxbench.models.files import TOKENIZER_CONFIG, weights_of
from maxbench.suites.folder import BASE, SCHEDULER, TOKENIZER, FolderSuite

USUAL = "sd15"
"""The suite whose settings are those of models that are given by ids or folders."""

TEXT_WIDTH = 768
"""Of the text that the U-Net of Stable Diffusion 1 reads."""

HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[0-9a-f]{7,40}))?")

READING = ("weights_dir", "device", "config_dir", "settings")
"""Arguments of :func:`load` that bear on annotators and scorers."""

Controls = Sequence[str] | Mapping[str, str | Path]


def load(
    model: str | Path = "miniature",
    controls: Controls = ("hed", "depth"),
    *,
    suite: str | None = None,
    sampler: str = "unipc",
    weights_dir: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    batch_size: int | None = None,
    config_dir: str | Path | None = None,
    settings: Sequence[str] = (),
) -> MultiControlPipeline:
    """A base model with its controls; their weights are loaded by the first picture.

    model: a suite of conf/suite/ ("miniature", which comes with the package, "sd15", "sd15_v11"); the id of a base
        model on the Hub, "organisation/name", or "organisation/name@commit"; or a local folder in its layout.
    controls: names of conditions, with the suite's own control for each; or condition -> a part of the suite (such as
        "t2iadapter_depth"), the id of a ControlNet or T2I-Adapter on the Hub, or a local folder.
    suite: whose settings apply where `model` is an id or a folder: resolution, steps, annotators and scorers; "sd15"
        unless said.
    sampler: one of conf/sampler/. weights_dir: a folder in which published parts lie as <organisation>/<name>; without
        one, and after it, the Hub's cache is looked into. Nothing is fetched.
    device: "auto", "cpu", "cuda" or "cuda:<n>". dtype: float32, bfloat16 or float16 of text encoder, U-Net and
        controls.
    batch_size: of pictures that are made together, the last batch filled up, as in a run; None makes all pictures of a
        call together, as diffusers does.
    config_dir: a folder of your own, laid out like conf/. settings: further settings as `maxbench run` takes them, for
        example ["runtime.tf32=true", "suite.text_scorer.folder=clip"].

    Raises UserError for a mistake, and for weights that are not there: with what to fetch and how.
    """
    loaded = _assembled(
        model, controls, suite, sampler, weights_dir, device, dtype, batch_size, config_dir, tuple(settings)
    )
    _require_weights(loaded.suite, tuple(loaded.conditions))
    return loaded


def annotate(
    picture: Given | Sequence[Given],
    condition: str,
    suite: str | Path | MultiControlPipeline = "miniature",
    **settings: Any,
) -> Image.Image | list[Image.Image]:
    """The map of a picture, as the annotator of a suite draws it; of a list of pictures the maps of a batch.

    picture: a PIL image, a file, (H, W, 3) uint8, or floats in [0, 1]; it is cut to the square in its middle and
        resized to the suite's resolution, as in a run.
    condition: "depth", "hed", "seg", "canny", ... suite: a name or a folder as for :func:`load`, or what it returned.
    settings: weights_dir, device, config_dir and settings, as of :func:`load`.
    The map is what `maps=` takes: grey levels ("L"), or class numbers with the palette's colours ("P").
    """
    return _reader(suite, (condition,), settings).annotate(picture, condition)


def score(
    picture: Given | Sequence[Given],
    maps: Mapping[str, Given | Sequence[Given]],
    prompt: str | Sequence[str] | None = None,
    *,
    masks: Mapping[str, Given | Sequence[Given]] | None = None,
    suite: str | Path | MultiControlPipeline = "miniature",
    **settings: Any,
) -> pd.DataFrame:
    """How far each map holds in a picture, and how well the picture fits a prompt.

    picture, maps: as for :func:`annotate`, and condition -> map; of several pictures lists of equal length.
    prompt: of the CLIP score; None for none. masks: condition -> where it is scored, everywhere unless said.
    suite, settings: as for :func:`annotate`.
    One row for each picture, condition and metric, with the columns `picture` (its place), `condition`, `metric`,
    `value`, `protocol` and `higher_is_better`; names and numbers are those of a run's samples.parquet.
    """
    return _reader(suite, tuple(maps), settings).score(picture, maps, prompt, masks=masks)


def _reader(
    suite: str | Path | MultiControlPipeline, conditions: tuple[str, ...], settings: Mapping[str, Any]
) -> MultiControlPipeline:
    """A pipeline whose annotators and scorers are asked; no other weights need be there."""
    if isinstance(suite, MultiControlPipeline):
        if settings:
            raise UserError(f"{', '.join(settings)} were said when the pipeline was loaded; leave them out here.")
        return suite
    if not conditions:
        raise UserError("There is no map; give at least one, maps={'depth': ...}.")
    for name in settings:
        if name not in READING:
            raise UserError(f"There is no setting '{name}' of what reads pictures; {nearest(name, READING)}")
    return _kept(suite, conditions, **{**settings, "settings": tuple(settings.get("settings", ()))})


@lru_cache(maxsize=8)
def _kept(
    model: str | Path,
    controls: tuple[str, ...],
    weights_dir: str | Path | None = None,
    device: str | torch.device = "auto",
    config_dir: str | Path | None = None,
    settings: tuple[str, ...] = (),
) -> MultiControlPipeline:
    return _assembled(model, controls, None, "unipc", weights_dir, device, "float32", None, config_dir, settings)


# --- from settings to objects -----------------------------------------------------------------------------


def _assembled(
    model: str | Path,
    controls: Controls,
    suite: str | None,
    sampler: str,
    weights_dir: str | Path | None,
    device: str | torch.device,
    dtype: str | torch.dtype,
    batch_size: int | None,
    config_dir: str | Path | None,
    settings: Sequence[str],
) -> MultiControlPipeline:
    """All but the weights: composed and checked as a run's configuration is."""
    folder = None if config_dir is None else Path(config_dir).expanduser().absolute()
    if folder is not None and not folder.is_dir():
        raise UserError(f"config_dir is {config_dir}, which is no folder; give one that is laid out like conf/.")
    names = _condition_names(controls)
    own, chosen = _chosen(model, suite, folder)
    words = [
        f"suite={chosen}", f"sampler={sampler}", "~experiment", "name=api", "+fusion@methods.sum=sum",
        *(f"+condition@conditions.{name}={name}" for name in names),
        f"runtime.device={device}", f"runtime.dtype={str(dtype).removeprefix('torch.')}",
        *([] if batch_size is None else [f"runtime.batch_size={batch_size}"]), *settings,
    ]  # fmt: skip

    def changes(config: Mapping[str, Any]) -> dict[str, Any]:
        changed = _base(config["suite"], own)
        changed |= {} if weights_dir is None else {"suite.weights_dir": str(weights_dir)}
        return changed | _controls(config["suite"], controls, changed.get("suite.hub"))

    config = composed(words, folder, changes)
    made = component(config["suite"], "suite")
    runtime = check(config).runtime
    size = None if batch_size is None else runtime.batch_size
    if size == "auto":
        raise UserError("batch_size is a number, or None for all pictures of a call together.")
    return MultiControlPipeline(
        networks=Networks.of(
            made,
            {name: component(entry, f"conditions.{name}", CONDITION) for name, entry in config["conditions"].items()},
            make_precision(runtime.model_dump(), size or 1, made.resolution),
            pick_device(runtime.device),
            size or 1,
        ),
        suite=made,
        sampler=component(config["sampler"], "sampler", SAMPLER),
        batch_size=size,
        methods=cache(
            lambda rule: composed([*words, f"+fusion@methods.chosen={rule}"], folder, changes)["methods"]["chosen"]
        ),
    )


def composed(words: Sequence[str], folder: Path | None, changes: Any = None) -> dict[str, Any]:
    """The configuration of some overrides, checked; a program's own use of Hydra is not disturbed.

    changes: of what was composed -> dotted key -> value.
    """
    with _undisturbed(), hydra_on(folder) as hydra:
        return plain(compose(hydra, words, changes))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hydra as the calling program has set it up is there again afterwards."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config


def _condition_names(controls: Controls) -> list[str]:
    if isinstance(controls, str) or not isinstance(controls, Sequence | Mapping) or not controls:
        raise UserError(f"controls is {controls!r}; give a list of conditions, ['hed', 'depth'].")
    for name in controls:
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise UserError(f"controls has {name!r}; a condition is a name such as 'depth'.")
    if len(set(controls)) < len(controls):
        raise UserError(f"controls names a condition twice: {', '.join(controls)}.")
    return list(controls)


def _chosen(model: str | Path, suite: str | None, folder: Path | None) -> tuple[str | Path | None, str]:
    """What a model is: an id or a folder, None for a suite's own; and the suite whose settings apply."""
    places = [CONF, *([folder] if folder else [])]
    suites = sorted(path.stem for place in places for path in (place / "suite").glob("*.yaml"))
    if suite is not None and suite not in suites:
        raise UserError(f"There is no suite '{suite}'; {nearest(suite, suites)}")
    if model in suites:
        if suite not in (None, model):
            raise UserError(f"'{model}' is a suite and suite='{suite}' names another; leave one of them out.")
        return None, str(model)
    place = Path(model).expanduser()
    if place.is_dir():
        return place.absolute(), suite or _suite_of(place)
    if not HUB_ID.fullmatch(str(model)) or isinstance(model, Path):
        raise UserError(
            f"'{model}' is no suite, no folder and no id of the Hub (organisation/name); {nearest(str(model), suites)}"
        )
    return str(model), suite or USUAL


def _suite_of(folder: Path) -> str:
    """The suite whose settings fit a folder's U-Net: they are Stable Diffusion 1's, or must be said."""
    import json

    file = folder / "unet" / "config.json"
    try:
        width = json.loads(file.read_bytes()).get("cross_attention_dim")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} is no base model in the Hub's layout: {file} cannot be read; name the folder that has unet/, "
            "vae/, text_encoder/, tokenizer/ and scheduler/."
        ) from error
    if width != TEXT_WIDTH:
        raise UserError(
            f"The U-Net in {folder} reads text of width {width} and not {TEXT_WIDTH}, so that it is no Stable "
            "Diffusion 1; say whose settings apply, suite='miniature' for a folder like the miniature's."
        )
    return USUAL


def _base(suite: Mapping[str, Any], own: str | Path | None) -> dict[str, Any]:
    """What differs from a suite whose base model is another."""
    hub = dict(suite.get("hub") or {})
    if own is None:
        return {}
    if isinstance(own, Path):
        return {
            "suite.root": str(own),
            "suite.hub": {part: entry for part, entry in hub.items() if not (own / part).exists()},
        }
    for part in (*BASE, TOKENIZER, SCHEDULER):
        if part not in hub:
            raise UserError(f"The suite '{suite['name']}' is a folder and no repository; take suite='{USUAL}'.")
        hub[part] = {**hub[part], **_repository(own), "bytes": None, "megabytes": None, "sha256": None}
    hub[TOKENIZER] = {**hub[TOKENIZER], "beside": [TOKENIZER_CONFIG]}  # its vocabulary has several forms
    return {"suite.hub": hub}


def _controls(suite: Mapping[str, Any], controls: Controls, hub: Mapping[str, Any] | None) -> dict[str, Any]:
    """What differs from a suite whose controls are others."""
    if not isinstance(controls, Mapping):
        return {}
    known = dict(suite.get("hub") or {}) if hub is None else dict(hub)
    changed: dict[str, Any] = {}
    parts = {*known, *suite["controls"].values(), *(suite.get("adapters") or {}).values()}
    places = dict(suite.get("places") or {})
    for name, given in controls.items():
        place = Path(given).expanduser() if isinstance(given, str | Path) and str(given) else None
        if given in parts:
            part = str(given)
        elif place is not None and place.exists():
            if not weights_of(place):
                raise UserError(f"{place} holds no weights, and it is to be the control of '{name}'; name another.")
            part = f"own_{name}{'.safetensors' if place.is_file() else ''}"
            places[part] = str(place.absolute())
        elif isinstance(given, str) and HUB_ID.fullmatch(given):
            part = f"own_{name}"
            known[part] = {**_repository(given), "file": "diffusion_pytorch_model.safetensors",
                           "beside": ["config.json"]}  # fmt: skip
        else:
            raise UserError(
                f"controls['{name}'] is {str(given)!r}, which is no part of the suite, no folder and no id of the Hub; "
                f"parts are {', '.join(sorted(filter(None, parts)))}."
            )
        changed[f"suite.controls.{name}"] = part
    return {**changed, "suite.hub": known, "suite.places": places}


def _repository(words: str) -> dict[str, Any]:
    found = HUB_ID.fullmatch(words)
    return {"id": found["id"], "revision": found["revision"]}


def _require_weights(suite: FolderSuite, conditions: Sequence[str]) -> None:
    """UserError for what pictures need and is not there; of models that no suite has, how they are fetched."""
    parts = [part for part in suite.absent(conditions, measured=False) if part in suite.published]
    for part in parts:
        wanted = suite.published[part]
        if wanted.bytes is None and wanted.megabytes is None and wanted.address is None and wanted.file is not None:
            revision = f" --revision {wanted.revision}" if wanted.revision else ""
            place = f" --local-dir {suite.weights_dir}/{wanted.id}" if suite.weights_dir else ""
            raise UserError(
                f"{wanted.id} is not on this machine ({part} is looked for in {suite.shelf.home(wanted)}); fetch it "
                f"with `hf download {wanted.id}{revision}{place}`, or name a folder that has it."
            )
    suite.require(conditions, measured=False)
