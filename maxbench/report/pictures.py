"""The pictures of a finished run: maps as people see them, sources, what methods made, and which of them to show."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageFilter, ImageOps

from maxbench.errors import UserError
from maxbench.report.base import NotThere
from maxbench.report.runs import CONFIG, SAMPLES, Results
from maxbench.store.runfolder import MANIFEST, mask_file, source_file

LIGHT, DARK = (255, 255, 255), (0, 0, 0)  # an outline and its edges: one of them is visible on any colour
SILENT = (20, 24, 60)  # in a map, where it says nothing
CONTROL, EVALUATION = "control_masks", "evaluation_masks"
SCORES = ("q", "joint", "conflict")
JOINT = ""  # in place of a condition
MOST = 6
"""Methods beside each other on one sheet."""
OWN = "maxbench."
"""What the rules of this package begin with; another rule is a user's."""
PREFERRED = (
    "none", "sum", "tuned_sum", "gated_sum", "maxfusion", "outputs_only", "multi_t2i_adapter", "average",
    "maxfusion_published", "pair",
)  # fmt: skip
"""What a sheet shows of a run's methods unless said, after what a user has added."""

Scores = Mapping[tuple[str, int, str], Mapping[str, float]]
"""(sample, replicate, row of the tables) -> condition -> q, and JOINT -> the smallest."""


@dataclass(frozen=True)
class Made:
    """A row of the tables that has pictures: a method of the run, or pictures made elsewhere.

    place: their folder within the run's. tuned and parameter: as the manifest has them. decides: whether the rule is
    the package's own.
    """

    name: str
    place: str
    role: str = "fusion"
    branches: tuple[str, ...] = ()
    series: str = ""
    entry: str = ""
    parameter: str | None = None
    setting: float | None = None
    tuned: bool = False
    entered: bool = False

    @property
    def heading(self) -> str:
        return f"{self.name} (entered)" if self.entered else self.name


@dataclass(frozen=True)
class Shown:
    """What a figure shows. methods: rows by their names; chosen by the figure if none. samples: so many of the first.

    ids: these samples instead. replicates: so many of each.
    """

    methods: Sequence[str] = ()
    samples: int = 8
    ids: Sequence[str] = ()
    replicates: int = 1


@dataclass(frozen=True)
class Column:
    """What stands below one heading.

    picture: sample and replicate => its picture, None where there is none. row: of samples.parquet, whose scores stand
    below the picture. conditions: whose masks are outlined and whose q is shown; none for a map.
    """

    heading: str
    picture: Callable[[dict, int], Image.Image | None]
    row: str = ""
    conditions: Sequence[str] = ()


@dataclass(frozen=True)
class Album:
    """The pictures of a finished run."""

    results: Results
    _opened: dict[Path, Image.Image | None] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        return self.results.folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration, with what every figure asks of it."""
        config = self.results.config
        if not isinstance(config.get("conditions"), dict) or not isinstance(config.get("suite"), dict):
            raise self.results.no_configuration()
        return config

    @property
    def conditions(self) -> list[str]:
        return list(self.config["conditions"])

    @cached_property
    def title(self) -> str:
        """Experiment, suite and seed."""
        try:
            return f"{self.config['name']} on {self.config['suite']['name']}, seed {self.config['seed']}"
        except KeyError as error:
            raise self.results.no_configuration() from error

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        manifest = self.results.manifest
        if manifest is None:
            raise NotThere(
                f"{self.folder} has no {MANIFEST}: it was pooled, or kept without its pictures; "
                "name the run itself, or run its experiment again"
            )
        samples, methods = manifest.get("samples"), manifest.get("methods")
        complete = isinstance(samples, list) and isinstance(methods, list) and samples
        if not complete or not all(isinstance(each, dict) and "sources" in each and "id" in each for each in samples):
            raise self.results.damaged(MANIFEST)
        if any(set(self.conditions) - set(each["sources"]) for each in samples):
            raise self.results.damaged(MANIFEST)
        if not all(isinstance(each, dict) and "name" in each for each in methods):
            raise self.results.damaged(MANIFEST)
        return manifest

    @property
    def samples(self) -> list[dict]:
        """What the manifest says of every sample."""
        return self._manifest["samples"]

    @cached_property
    def methods(self) -> list[Made]:
        """Every method of the run, with pictures or without, then the rows whose pictures were made elsewhere."""
        made = []
        for each in self._manifest["methods"]:
            name = each["name"]
            made.append(
                Made(
                    name, f"images/{name}", each.get("role", "fusion"), tuple(each.get("branches") or ()),
                    each.get("series", name), each.get("entry", name), each.get("parameter"), each.get("setting"),
                    bool(each.get("tuned")),
                )
            )  # fmt: skip
        listed = self.folder / "records" / "entered"
        entered = sorted(path.relative_to(listed).with_suffix("").as_posix() for path in listed.rglob("*.json"))
        return made + [Made(name, f"entered/{name}", series=name, entry=name, entered=True) for name in entered]

    @cached_property
    def pictured(self) -> list[Made]:
        """Those that have pictures."""
        found = [each for each in self.methods if (self.folder / each.place).is_dir()]
        if not found:
            raise NotThere(
                f"{self.folder} has no pictures of any method: it was kept without them; run its experiment again"
            )
        return found

    def chosen(self, shown: Shown) -> list[Made]:
        """The named methods in the order of their naming; without names at most MOST, in the order of the run."""
        if not shown.methods:
            kept = sorted(self.pictured, key=self.rank)[:MOST]
            return [each for each in self.pictured if each in kept]
        known = {each.name: each for each in self.pictured}
        for name in shown.methods:
            if name not in known:
                raise UserError(f"{self.folder.name} has no pictures of '{name}'; it has {', '.join(known)}.")
        if twice := [name for name in known if list(shown.methods).count(name) > 1]:
            raise UserError(f"--methods names {twice[0]} twice; name each once.")
        return [known[name] for name in shown.methods]

    def rank(self, each: Made) -> tuple:
        """A user's own rows first, then PREFERRED, then other fusions, then singles; of what varies the ends first."""
        rule = (self.config.get("methods", {}).get(each.entry) or {}).get("rule") or {}
        own = each.entered or not str(rule.get("_target_", OWN)).startswith(OWN)
        place = PREFERRED.index(each.entry) if each.entry in PREFERRED else len(PREFERRED)
        settings = [other.name for other in self.methods if other.series == each.series]
        at = settings.index(each.name)
        inner = 0 if at in (0, len(settings) - 1) else at
        return inner > 0, not own, place, each.role == "single", each.tuned, inner

    def sampled(self, shown: Shown) -> list[dict]:
        """The samples that are shown."""
        if not shown.ids:
            return self.samples[: shown.samples]
        known = {each["id"]: each for each in self.samples}
        for name in shown.ids:
            if name not in known:
                near = ", ".join(list(known)[:5])
                raise UserError(f"{self.folder.name} has no sample '{name}'; its {len(known)} begin with {near}.")
        return [known[name] for name in dict.fromkeys(shown.ids)]

    def open(self, path: Path) -> Image.Image | None:
        """A picture in RGB, None where there is none; each is read once."""
        if path not in self._opened:
            self._opened[path] = opened(path)
        return self._opened[path]

    def given(self, samples: Sequence[dict]) -> list[Column]:
        """The maps, each beside the picture that it was drawn from; conditions that share theirs stand together."""
        columns = []
        sharing = sharing_pictures(self.conditions, samples)
        for names in sharing:
            columns += [Column(name, lambda sample, _, name=name: self.map(name, sample)) for name in names]
            heading = "real" if len(sharing) == 1 else f"source of {', '.join(names)}"
            columns.append(
                Column(
                    heading,
                    lambda sample, _, name=names[0]: self.open(
                        self.folder / source_file("real", sample["sources"][name])
                    ),
                    "real",
                    names,
                )
            )
        return columns

    def column(self, each: Made, heading: str = "") -> Column:
        """The pictures of a method."""

        def picture(sample: dict, replicate: int) -> Image.Image | None:
            return self.open(self.folder / each.place / f"{sample['id']}-{replicate}.png")

        return Column(heading or each.heading, picture, each.name, self.conditions)

    def map(self, condition: str, sample: dict) -> Image.Image | None:
        """A condition's given map as people see it."""
        return given_map(self.folder, self.config, condition, sample)

    @cached_property
    def scored(self) -> tuple[Scores, dict[str, float]]:
        """The scores of every picture, and every sample's degree of conflict; nothing where a run has no scores."""
        if not (self.folder / SAMPLES).exists():
            return {}, {}
        table = self.results.samples
        table = table[table.metric.isin(SCORES)].dropna(subset=["value"])
        conflict = table[(table.metric == "conflict") & (table.replicate == 0)]
        scores: dict[tuple[str, int, str], dict[str, float]] = {}
        for each in table[table.metric != "conflict"].itertuples():
            condition = JOINT if each.metric == "joint" else each.condition
            own = scores.setdefault((each.sample, int(each.replicate), each.method), {})
            own.setdefault(condition, float(each.value))
        return scores, dict(zip(conflict["sample"], conflict.value, strict=True))


def sharing_pictures(conditions: Sequence[str], samples: Sequence[dict]) -> list[list[str]]:
    """The conditions, those together that always share their picture."""
    sharing: dict[tuple, list[str]] = {}
    for name in conditions:
        sharing.setdefault(tuple(sample["sources"][name] for sample in samples), []).append(name)
    return list(sharing.values())


def outlined(picture: Image.Image, masks: Sequence[Image.Image], colour: tuple[int, int, int] = LIGHT) -> Image.Image:
    """A picture with the borders of masks as lines, white by default, with dark edges, one pixel wide each.

    A mask and its complement have the same border. The picture's own border is none.
    """
    lines = outline(picture.size, masks, colour)
    if lines is None:
        return picture
    drawn = picture.copy()
    drawn.paste(lines, mask=lines.getchannel("A"))
    return drawn


def outline(
    size: tuple[int, int], masks: Sequence[Image.Image], colour: tuple[int, int, int] = LIGHT
) -> Image.Image | None:
    """The same lines alone, on nothing (RGBA, of this width and height); None where there are none."""
    line = np.zeros(size[::-1], bool)
    for mask in masks:
        mask = mask.convert("L")
        if mask.getpixel((0, 0)) > 127:  # so that rounding treats a mask and its complement alike
            mask = ImageOps.invert(mask)
        inside = np.asarray(mask.resize(size, Image.Resampling.BILINEAR)) > 127
        line[:, :-1] |= inside[:, 1:] != inside[:, :-1]
        line[:-1] |= inside[1:] != inside[:-1]
    if not line.any():
        return None
    white = Image.fromarray(np.uint8(255 * line))
    drawn = Image.new("RGBA", size, (*DARK, 0))
    drawn.paste((*DARK, 255), mask=white.filter(ImageFilter.MaxFilter(3)))
    drawn.paste((*colour, 255), mask=white)
    return drawn


def masks_of(folder: Path, sample: dict, conditions: Sequence[str]) -> list[Image.Image]:
    """The control masks of these conditions; where they have none, their evaluation masks."""
    for kind in (CONTROL, EVALUATION):
        paths = [folder / mask_file(kind, condition, sample["id"]) for condition in conditions]
        found = [mask for mask in map(opened, paths) if mask is not None]
        if found:
            return found
    return []


def opened(path: Path) -> Image.Image | None:
    """A picture in RGB, None where there is none; one that cannot be read is a UserError."""
    if not path.exists():
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # of a file that is cut off, or no picture
        raise UserError(
            f"{path} cannot be read as a picture; run the experiment again, which makes it anew."
        ) from error


def given_map(folder: Path, config: dict, condition: str, sample: dict) -> Image.Image | None:
    """A condition's given map as people see it: classes in the palette's colours, levels in grey, silence dark blue."""
    path = folder / source_file(f"conditions/{condition}", sample["sources"][condition])
    if not path.exists():
        return None
    palette = (config["conditions"][condition] or {}).get("palette")
    drawn = painted(path, palette) if palette else opened(path)
    shown = opened(folder / mask_file(CONTROL, condition, sample["id"]))
    if shown is not None:
        drawn = Image.composite(drawn, Image.new("RGB", drawn.size, SILENT), shown.convert("L"))
    return drawn


def painted(path: Path, palette: list) -> Image.Image:
    """A map of classes in the palette's colours."""
    try:
        with Image.open(path) as image:
            labels = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{path} cannot be read as a picture; run the experiment again, which makes it anew."
        ) from error
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return Image.fromarray(colours[labels])


def read_config(folder: Path) -> dict:
    """The configuration of a folder that is no finished run yet."""
    return yaml.safe_load((folder / CONFIG).read_text())


LARGEST = 1_900_000  # bytes; a sheet that needs more is kept with fewer colours


def small_png(sheet: Image.Image) -> bytes:
    """As a PNG of moderate size: with fewer levels of each colour where it needs them, at last with 128 colours.

    With 6 bits a channel is off by at most 2 of 255.
    """
    pixels = np.asarray(sheet)
    for bits in (8, 6, 5):
        levels = 2**bits - 1
        coarse = np.round(np.round(np.arange(256) / 255 * levels) * 255 / levels).astype(np.uint8)
        drawn = _png(Image.fromarray(coarse[pixels]))
        if len(drawn) <= LARGEST:
            return drawn
    return _png(sheet.quantize(palette=sheet.quantize(128), dither=Image.Dither.FLOYDSTEINBERG))


def _png(image: Image.Image) -> bytes:
    drawn = io.BytesIO()
    image.save(drawn, format="PNG")
    return drawn.getvalue()
