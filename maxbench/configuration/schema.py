"""What a configuration may say: every setting of a run, its type, its range, and how settings refer to each other.

It is checked after Hydra has composed it and before torch is imported, so that a mistake is answered at once. `check`
gives the first mistake in one sentence: the dotted key, its value, and what would be good. Settings of classes outside
this package, and of rules and conditions, are checked in :mod:`maxbench.cli.build`, where the classes are known.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from maxbench.errors import UserError
from maxbench.names import leaves_folder

EACH, PAIRS = "each", "pairs"  # of branches
USUAL_BASELINES = ("sum", "tuned_sum")  # what users of several controls have today, and the same with care
SITES = ("conv_in", "hint", "down", "hidden", "residuals", "mid")
RESERVED = ("real", "vae_reconstruction", "shuffled", "exchanged")  # rows of every table that no method makes
METHOD = "maxbench.experiments.method.Method"  # what a method's `_target_` says in older files; it needs none
INSTRUCTIONS = ("_args_", "_recursive_", "_convert_", "_partial_")  # to Hydra, and no parameters of a class
NUMBERS = ("scale", "control_start", "control_end", "fusion_start", "fusion_end")  # of a method, which can vary
TUNING = ("scale", "balance", "branch_scale", "control_start", "control_end")  # of a method, which can be tuned
TUNABLE = (*TUNING, "rule.<parameter>")
VARYING = (*NUMBERS, "rule.<parameter>")


# --- words ------------------------------------------------------------------------------------------------


MOST = 40  # choices in a sentence


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of a sentence: "did you mean 'x'?" where something is close, else what there is."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    more = ", ..." if len(choices) > MOST else ""
    return f"there are {', '.join(choices[:MOST])}{more}." if choices else "there is none to choose."


def shown(value: Any) -> str:
    """A value in a sentence: as in YAML where Python has another word for it, and not longer than a line."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def dotted(place: Sequence[str | int]) -> str:
    """The dotted key of a place in the configuration."""
    key = ""
    for part in place:
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    return key.removeprefix(".")


# --- types ------------------------------------------------------------------------------------------------


def must(wanted: str) -> WrapValidator:
    """Say what a value must be, in words, whatever is wrong with it."""

    def validate(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("must", "{wanted}", {"wanted": wanted}) from error

    return WrapValidator(validate)


def whole(low: int, high: int | None = None) -> Any:
    """The type of whole numbers from `low` to `high`."""
    wanted = f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
    return Annotated[int, Field(ge=low, le=high), must(wanted)]


def number(low: float, high: float | None = None) -> Any:
    """The type of finite numbers from `low` to `high`."""
    wanted = f"a number, {low:g} or more" if high is None else f"a number from {low:g} to {high:g}"
    return Annotated[float, Field(ge=low, le=high), must(wanted)]


def _within_its_folder(name: str) -> str:
    if ".." in name:
        raise ValueError("it leaves its folder")
    return name


def _inner(path: str) -> str:
    if leaves_folder(path):
        raise ValueError("it leads out of its folder")
    return path


Text = Annotated[str, Field(pattern=r"\S"), must("a text")]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100),
    AfterValidator(_within_its_folder),
    must("a name: at most 100 letters, digits, '_', '.', '+' and '-', the first a letter or digit, and no '..'"),
]
Path_ = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"),
    must("the dotted path of a class or function, such as maxbench.fusion.MaxFusion"),
]
Site = Annotated[
    str,
    Field(pattern=rf"^({'|'.join(SITES)}|(down|hidden|residuals)\.\d+)$"),
    must(f"one of the sites; sites are {', '.join(SITES)}, down.0 for the first down block and so on"),
]
Inner = Annotated[str, AfterValidator(_inner), must("a path within the repository")]
Scale = number(0)
Share = number(0, 1)  # of the steps
Seed = whole(0, 2**63 - 1)
Finite = Annotated[float, must("a number")]


def listed(item: Any, wanted: str, other: Any = list) -> Any:
    """The type of lists, or of something else; a mistake in the list names its item."""
    return Annotated[
        Annotated[list[item], Tag("list")] | Annotated[other, must(wanted), Tag("other")],
        Discriminator(lambda value: "list" if isinstance(value, list) else "other"),
    ]


def by_branch(item: Any) -> Any:
    """The type of one value for all branches, or of condition -> value."""
    return Annotated[
        Annotated[item, Tag("one")] | Annotated[dict[str, item], Tag("each")],
        Discriminator(lambda value: "each" if isinstance(value, dict) else "one"),
    ]


class Settings(BaseModel):
    """Settings of which every key is known, none of a type other than its own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    wanted: ClassVar[str] = "settings, {key: value}"

    @classmethod
    def settings(cls) -> list[str]:
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """Refuse an unknown key before anything else: most are misspelt, and what is misspelt is then missing."""
        if not isinstance(values, Mapping):
            raise PydanticCustomError("must", "{wanted}", {"wanted": cls.wanted})
        for key in values:
            if key not in cls.settings() and cls._closed(values):
                raise PydanticCustomError("unknown", "unknown", {"key": key, "keys": cls.settings()})
        return values

    @classmethod
    def _closed(cls, values: Mapping[str, Any]) -> bool:
        """Whether no other key than the fields' may be given."""
        return True


class Component(Settings):
    """A class or function by its dotted path, and parameters that only it knows."""

    model_config = ConfigDict(extra="allow")
    wanted: ClassVar[str] = "a component, {_target_: the dotted path of its class, parameter: value}"
    instructions: ClassVar[tuple[str, ...]] = ()  # of Hydra's, those that this kind of component may use
    known: ClassVar[tuple[str, ...]] = ()  # classes of this package that take the fields and nothing else

    target: Path_ = Field(alias="_target_")

    @classmethod
    def _closed(cls, values: Mapping[str, Any]) -> bool:
        return values.get("_target_") in cls.known

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key in INSTRUCTIONS and key not in cls.instructions:
                raise PydanticCustomError("refused", "refused", {"key": key})
        return values


# --- the groups of conf/ ----------------------------------------------------------------------------------


class Row(NamedTuple):
    """One method as it stands in tables: an entry of `methods` can be several of them."""

    name: str
    entry: str
    branches: tuple[str, ...]
    match: str | None


class Method(Settings):
    """One entry of `methods`: the settings of :class:`maxbench.experiments.method.Method`."""

    target: Annotated[Literal[METHOD] | None, must("left out: a method is its settings")] = Field(
        None, alias="_target_"
    )
    rule: Component
    sites: listed(Site, f"a list of sites, of {', '.join(SITES)}, or [] for none") = ["conv_in", "down", "mid"]
    branches: listed(
        Text, "a list of conditions, such as [hed], or each, pairs, or null for all", Literal[EACH, PAIRS] | None
    ) = None
    scale: Scale = 1.0
    layer_scale: listed(Scale, "a list of numbers, one for each residual, or null", list | None) = None
    branch_scale: dict[str, Scale] = {}
    control_start: by_branch(Share) = 0.0
    control_end: by_branch(Share) = 1.0
    fusion_start: Share = 0.0
    fusion_end: Share = 1.0
    otherwise: Component | None = None
    match: Annotated[Text | None, must("the name of another method, or null")] = None
    vary: dict[str, listed(Finite, "a list of numbers, as in {rule.delta: [0, 0.7]}")] = {}
    tune: dict[str, listed(Finite, "a list of numbers, as in {branch_scale: [0.7, 1]}")] = {}
    then: dict[str, listed(Finite, "a list of numbers, as in {rule.delta: [0.5, 0.7]}")] = {}
    trials: Annotated[whole(2, 10_000) | None, must("a whole number from 2 to 10000, or null")] = None

    @model_validator(mode="after")
    def _varies(self) -> Method:
        """One number of the method varies, over values that it can take, each of them once."""
        if len(self.vary) > 1:
            raise UserError(f"vary has {', '.join(self.vary)}; one number of a method can vary at a time.")
        for number, values in self.vary.items():
            owner, _, name = number.rpartition(".")
            if number not in NUMBERS and (owner != "rule" or not name):
                raise UserError(f"vary has '{number}', which is no number of a method; {nearest(number, VARYING)}")
            if not values or len({f"{value:g}" for value in values}) < len(values):
                raise UserError(f"vary.{number} is {values}; give it values, none of them twice to six digits.")
            for value in values if owner == "" else ():
                self._take(number, value)
        return self

    @model_validator(mode="after")
    def _tunes(self) -> Method:
        """What is chosen on training scenes are numbers of the method, with values that they can take."""
        without = "take out then, by ~methods.NAME.then"
        if self.tune and (self.vary or self.match):
            raise UserError("tune goes neither with vary nor with match; make two methods of it.")
        if self.trials is not None and not self.tune:
            raise UserError("trials is how many settings of tune are tried, and there is no tune; give it ranges.")
        if self.then and not self.tune:
            raise UserError(f"then is chosen at the best of tune, and there is no tune; give it values, or {without}.")
        if self.trials is not None and self.then:
            raise UserError(f"trials search all of tune at once, and there is then besides; {without}.")
        if twice := sorted(self.tune.keys() & self.then.keys()):
            raise UserError(f"tune and then both have '{twice[0]}'; name it in one of them, or {without}.")
        strengths = [key for key in (*self.tune, *self.then) if key in ("balance", "branch_scale")]
        if len(strengths) > 1:
            raise UserError("tune and then have balance and branch_scale, which set the same strengths; take one.")
        for key, asked in (("tune", self.tune), ("then", self.then)):
            for number, values in asked.items():
                self._choose(key, number, values)
        return self

    def _choose(self, key: str, number: str, values: Sequence[float]) -> None:
        """Refuse what cannot be tuned, and values that it cannot take."""
        owner, _, name = number.rpartition(".")
        if number not in TUNING and (owner != "rule" or not name):
            raise UserError(f"{key} has '{number}', which cannot be tuned; {nearest(number, TUNABLE)}")
        if not values or len(set(values)) < len(values):
            raise UserError(f"{key}.{number} is {values}; give it values, none of them twice.")
        if self.trials is not None and (len(values) != 2 or values[0] >= values[1]):
            raise UserError(f"{key}.{number} is {values}; with trials it is the lowest and the highest value.")
        share = number in ("control_start", "control_end")
        for value in values if owner == "" else ():
            if value < 0 or (share and value > 1):
                raise UserError(f"{key}.{number} has {value:g}; it must be {'from 0 to 1' if share else '0 or more'}.")
            if number == "balance" and value == 0:
                raise UserError(f"{key}.balance has 0; it must be more than 0.")

    def _take(self, number: str, value: float) -> None:
        try:
            type(self).model_validate(
                {**self.model_dump(by_alias=True, exclude={"vary"}, exclude_unset=True), number: value}
            )
        except ValidationError as error:
            raise UserError(f"vary.{number} has {value:g}; it must be {error.errors()[0]['msg']}.") from error

    def rows(self, entry: str, conditions: Sequence[str]) -> list[Row]:
        """The methods that an entry of an experiment stands for, as they are named in tables."""
        if self.branches == EACH:
            named = {f"{entry}/{each}": (each,) for each in conditions}
        elif self.branches == PAIRS:
            named = {f"{entry}/{'+'.join(pair)}": pair for pair in combinations(conditions, 2)}
        else:
            named = {entry: tuple(conditions if self.branches is None else self.branches)}
        settings = [
            f"/{number.rpartition('.')[2]}={value:g}" for number, values in self.vary.items() for value in values
        ]
        return [
            Row(name + setting, entry, branches, self.match)
            for name, branches in named.items()
            for setting in settings or [""]
        ]


class Pairing(Component):
    """Which picture gives which condition: :mod:`maxbench.data.pairing`."""

    templates: ClassVar[dict[str, tuple[str, ...]]] = {  # what a prompt can be made of
        "maxbench.data.pairing.Complementary": (),
        "maxbench.data.pairing.HalfSplit": (),
        "maxbench.data.pairing.ObjectOnScene": ("object", "category", "caption"),
        "maxbench.data.pairing.CrossImage": ("first", "second"),
        "maxbench.data.pairing.Styled": ("things", "caption"),
    }
    known = tuple(templates)

    reference: whole(2) = 512
    object: Annotated[Text | None, must("the name of a condition, or null for the first")] = None
    style: Text = "style"
    template: Text = ""
    low: Share = 0.1
    high: Share = 0.4
    categories: dict[Text, Text] = {}


class Data(Component):
    """An image set."""

    known = (
        "maxbench.miniature.dataset.miniature_images",
        "maxbench.data.coco.coco_images",
        "maxbench.data.folder.folder_images",
    )

    root: Text = "data"
    split: Text = "val"
    count: whole(1) = 1
    part: Annotated[Literal["evaluation", "calibration"], must("evaluation or calibration")] = "evaluation"
    calibration_share: Share = 0.0
    about: Annotated[Text | None, must("a text, or null for the folder's name")] = None


class Scheduler(Component):
    """Makes a diffusers scheduler from the base model's configuration of one."""

    instructions = ("_partial_",)


class Sampler(Component):
    """How noise becomes a picture: :class:`maxbench.models.pipeline.Sampler`."""

    known = ("maxbench.models.pipeline.Sampler",)

    scheduler: Scheduler
    steps: whole(1, 1000)
    guidance_scale: number(0)
    negative_prompt: str = ""


class HubPart(Settings):
    """Some files of a repository on the Hub: :class:`maxbench.suites.hub.HubPart`."""

    wanted = "a part of the Hub, {id: organisation/name, file: the state dict, beside: [its other files]}"

    id: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", max_length=200),
        must("the id of a repository on the Hub, organisation/name"),
    ]
    revision: Annotated[
        Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None,
        must("a commit of the repository, 7 to 40 hexadecimal digits in quotes, or null for the newest"),
    ] = None
    folder: Inner = ""
    file: Annotated[Inner | None, must("the name of a file, or null")] = None
    bytes: Annotated[whole(1) | None, must("a whole number, 1 or more, or null")] = None
    megabytes: Annotated[whole(1) | None, must("a whole number, 1 or more, or null")] = None
    sha256: Annotated[
        Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None, must("64 hexadecimal digits, or null")
    ] = None
    beside: listed(Inner, "a list of files, or []") = []
    alone: bool = False
    address: Annotated[Annotated[str, Field(pattern=r"^https?://")] | None, must("an address, or null")] = None

    @model_validator(mode="after")
    def _has_files(self) -> HubPart:
        if self.file is None and (self.alone or self.address or not self.beside):
            raise UserError("file is missing; name the state dict, or what lies beside it in `beside`.")
        return self


class Suite(Component):
    """What has weights: :class:`maxbench.suites.folder.FolderSuite`, or another class with some of these fields."""

    known = ("maxbench.suites.folder.FolderSuite",)

    name: Name
    resolution: Annotated[int, Field(gt=0, le=8192, multiple_of=8), must("a positive multiple of 8")]
    steps: whole(1, 1000)
    guidance_scale: number(0)
    control_scale: Scale
    controls: dict[str, Any]
    negative_prompt: str = ""
    root: Text = "."
    hub: dict[Text, HubPart] = {}
    weights_dir: Annotated[Text | None, must("a folder, or null")] = None
    places: dict[Text, Text] = {}
    adapters: dict[str, Any] = {}
    annotators: dict[str, Any] = {}
    scorers: dict[str, Any] = {}
    text_scorer: Any = None
    image_encoder: Any = None
    features: dict[str, Any] = {}
    megabytes: Any = None
    palette: Any = None
    classes: Any = None
    conventions: dict[str, Text] = {}
    categories: dict[Text, Text] = {}


SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Runtime(Settings):
    """Where, how fast and how precisely; see :class:`maxbench.models.precision.Precision`."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), must("auto, cpu, cuda or cuda:<number>")]
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        BeforeValidator(lambda value: SHORT_DTYPES.get(value, value) if isinstance(value, str) else value),
        must("one of float32, bfloat16, float16, or fp32, bf16, fp16 for short"),
    ]
    tf32: Annotated[bool, must("true or false")] = False
    channels_last: Annotated[bool, must("true or false")] = False
    compile: Annotated[bool, must("true or false")] = False
    vae_slices: Annotated[bool | None, must("true, false, or null for where it saves much memory")] = None
    vae_tiling: Annotated[bool, must("true or false")] = False
    batch_size: Annotated[whole(1, 4096) | Literal["auto"], must("a whole number from 1 to 4096, or auto")]
    threads: Annotated[whole(1, 4096) | None, must("a whole number from 1 to 4096, or null")]
    workers: Annotated[whole(1, 4096) | None, must("a whole number from 1 to 4096, or null")] = None
    address: Annotated[Text | None, must("HOST:PORT of a Ray cluster, auto, or null")] = None


class Metrics(Settings):
    """Of every interval."""

    resamples: whole(100, 1_000_000)
    level: number(0.5, 0.999)


class Diagnostics(Settings):
    """What is recorded of the rules' decisions: :class:`maxbench.generation.trace.Tracing`."""

    samples: whole(0)
    maps: whole(0)
    steps: whole(1)


class Tracking(Settings):
    """Whom a run tells how it goes: conf/tracking/."""

    kind: Annotated[Literal["none", "wandb"], must("none or wandb; choose a file with tracking=")] = "none"
    project: Annotated[
        Annotated[str, Field(pattern=r"^[^/\\#?%:\s][^/\\#?%:]*$", max_length=128)],
        must("a name of at most 128 characters without / \\ # ? % :"),
    ] = "maxbench"
    entity: Annotated[Text | None, must("the name of a user or team, or null")] = None
    group: Annotated[Text | None, must("a text, or null")] = None
    name: Annotated[Text | None, must("a text, or null")] = None
    tags: listed(Text, "a list of texts, or []") = []
    mode: Annotated[Literal["online", "offline"] | None, must("online, offline, or null for what is possible")] = None
    pictures: whole(0, 200) = 32


class Calibration(Settings):
    """On what the strength of methods is measured; `data` is what differs from the experiment's own image set, as that
    set's file in conf/data/ says."""

    samples: whole(1)
    seed: Seed
    data: dict[str, Any]


class Configuration(Settings):
    """Every setting of a run; its groups lie in conf/."""

    name: Name
    samples: whole(2)
    replicates: whole(1, 10_000)
    seed: Seed
    baseline: listed(Text, "the name of a method, a list of names, or null", Text | None)
    output_dir: Text
    data_dir: Text
    store_dir: Text
    scenes: whole(1) = 768
    scales: list[Finite]
    deltas: list[Finite]
    conditions: dict[Name, Component]
    methods: dict[Name, Method]
    calibration: Calibration
    diagnostics: Diagnostics
    tracking: Tracking = Tracking()
    metrics: Metrics
    runtime: Runtime
    sampler: Sampler
    pairing: Pairing
    data: Data
    suite: Suite


# --- the whole --------------------------------------------------------------------------------------------


def check(config: Mapping[str, Any]) -> Configuration:
    """The checked configuration; the first mistake in it is a UserError of one sentence."""
    checked = _validated(Configuration, config)
    _validated(Data, {**config["data"], **config["calibration"]["data"]}, ("calibration", "data"))
    if not checked.conditions or not checked.methods:
        raise UserError(
            "An experiment needs at least one condition and one method; see conf/experiment/hed_depth.yaml."
        )
    _check_conditions(checked)
    for name, method in checked.methods.items():
        _check_branches(name, method, list(checked.conditions))
    rows = [row for name, method in checked.methods.items() for row in method.rows(name, list(checked.conditions))]
    _check_names(rows)
    _check_references(checked, rows)
    return checked


def _check_conditions(config: Configuration) -> None:
    """Every condition has a control, and the pairing names conditions and what a prompt can be made of."""
    conditions, pairing = list(config.conditions), config.pairing
    for name in conditions:
        if name not in config.suite.controls:
            raise UserError(
                f"The suite '{config.suite.name}' has no control for '{name}'; {nearest(name, config.suite.controls)}"
            )
        if config.suite.controls[name] is None:
            there = [each for each, part in config.suite.adapters.items() if part is not None]
            raise UserError(
                f"The suite '{config.suite.name}' has no control of this kind for '{name}'; of T2I-Adapters there are "
                f"{', '.join(there) or 'none'}."
            )
    for key in ("object", "style"):
        if key in pairing.model_fields_set and getattr(pairing, key) not in (None, *conditions):
            raise UserError(f"pairing.{key} is '{getattr(pairing, key)}'; it must be one of {', '.join(conditions)}.")
    _check_template(pairing)


def _check_template(pairing: Pairing) -> None:
    """A prompt is made of words that the pairing knows; those of a class outside this package only it knows."""
    words = pairing.templates.get(pairing.target)
    if words is None or "template" not in pairing.model_fields_set:
        return
    try:
        used = [word for _, word, _, _ in string.Formatter().parse(pairing.template) if word is not None]
        unknown = [word for word in used if word not in words]
        if not unknown:
            pairing.template.format(**dict.fromkeys(words, "text"))  # {caption:d} is for numbers
    except (ValueError, KeyError) as error:
        raise UserError(f"pairing.template is '{pairing.template}': {error}.") from error
    if unknown:
        raise UserError(f"pairing.template has '{{{unknown[0]}}}'; {nearest(unknown[0], words)}")


def _check_branches(name: str, method: Method, conditions: Sequence[str]) -> None:
    """A method names only branches of the experiment, each once."""
    branches = method.branches if isinstance(method.branches, list) else []
    places = {f"branches[{place}]": branch for place, branch in enumerate(branches)}
    for key in ("branch_scale", "control_start", "control_end"):
        value = getattr(method, key)
        places |= {f"{key}.{branch}": branch for branch in (value if isinstance(value, dict) else ())}
    for key, branch in places.items():
        if branch not in conditions:
            raise UserError(f"methods.{name}.{key} is for '{branch}', no condition here; {nearest(branch, conditions)}")
    for branch in branches:
        if branches.count(branch) > 1:
            raise UserError(f"methods.{name}.branches has '{branch}' twice; a method sees a branch once.")


def _check_names(rows: Sequence[Row]) -> None:
    """Every row has files of its own, also where a file system does not tell a from A."""
    written: dict[str, str] = {}
    for row in rows:
        if row.entry.casefold() in RESERVED:
            raise UserError(
                f"methods.{row.entry} is named like a row that every table has ({', '.join(RESERVED)}); "
                "give it another name."
            )
        other = written.setdefault(row.name.casefold(), row.name)
        if other is not row.name:
            raise UserError(
                f"The methods '{other}' and '{row.name}' would write the same files; give one another name."
            )


def baselines_of(asked: str | Sequence[str] | None, methods: Sequence[str]) -> list[str]:
    """The methods that differences are to; where none is asked for, the usual ones that are there, or the first."""
    if asked is None:
        return [name for name in USUAL_BASELINES if name in methods] or list(methods[:1])
    return [asked] if isinstance(asked, str) else list(asked)


def _check_references(config: Configuration, rows: Sequence[Row]) -> None:
    """The baseline and what methods are matched with are methods of the experiment."""
    names = [row.name for row in rows]
    baselines = baselines_of(config.baseline, names)
    for place, name in enumerate(baselines):
        if name not in names:
            raise UserError(f"baseline is '{name}', which is no method here; {nearest(name, names)}")
        if name in baselines[:place]:
            raise UserError(f"baseline has '{name}' twice; name a method once.")
    if not baselines:
        raise UserError("baseline is []; name at least one method that differences are to.")
    fit = [row.name for row in rows if row.match is None and row.branches]
    for row in rows:
        if row.match is not None and row.match not in fit:
            raise UserError(
                f"methods.{row.entry}.match is '{row.match}', which is no method with a strength of its own; "
                f"{nearest(row.match, fit)}"
            )


# --- sentences --------------------------------------------------------------------------------------------

WORDS = {"list_type": "a list", "dict_type": "settings, {key: value}", "string_type": "a text"}


def _validated(kind: type[Settings], config: Mapping[str, Any], under: Sequence[str] = ()) -> Any:
    """Some settings, checked; `under` is where in the configuration they lie."""
    try:
        return kind.model_validate(config)
    except ValidationError as error:
        raise UserError(_sentence(error, config, under)) from None


def _sentence(error: ValidationError, config: Mapping[str, Any], under: Sequence[str]) -> str:
    """The first of pydantic's errors as a sentence."""
    first = error.errors()[0]
    place = [*under, *_place(first["loc"], config)]
    key, context = dotted(place), first.get("ctx", {})
    if first["type"] == "unknown":
        keys = [dotted([*place, each]) for each in context["keys"]]
        unknown = dotted([*place, context["key"]])
        return f"There is no setting '{unknown}'; {nearest(unknown, keys)}"
    if first["type"] == "refused":
        return f"{key} has {context['key']}, an instruction that is not followed here; give parameters by their names."
    if first["type"] == "missing":
        return _missing([*place, first["loc"][-1]], config)
    if first["type"] == "value_error":
        return f"{key}.{context['error']}"
    if first["loc"][-1] == "[key]":
        return f"{dotted(place[:-1])} has '{place[-1]}'; its name must be {context['wanted']}."
    wanted = context.get("wanted") or WORDS.get(first["type"], "another: " + first["msg"])
    return f"{key} is {shown(first['input'])}; it must be {wanted}{_hint(place, first['input'])}."


def _hint(place: Sequence[str | int], value: Any) -> str:
    """How the command chooses methods and conditions, where that seems to have been meant."""
    group = {"methods": "fusion", "conditions": "condition"}.get(str(place[0]))
    if group and len(place) == 1:
        return f"; +{group}@{place[0]}.NAME=FILE adds one of conf/{group}/"
    if group and len(place) == 2 and value is None:
        return f"; ~{dotted(place)} leaves it out"
    return ""


def _place(location: Sequence[str | int], config: Any) -> list[str | int]:
    """Where an error lies in the configuration; pydantic's location also names the alternatives of a type."""
    place: list[str | int] = []
    for part in location:
        inside = part in config if isinstance(config, Mapping) else isinstance(part, int)
        if inside:
            place.append(part)
            config = config[part]
    return place


def _missing(place: Sequence[str | int], config: Mapping[str, Any]) -> str:
    """A setting that is not there; of a method that has no rule, its name may be a misspelt one."""
    sentence = f"{dotted(place)} is missing"
    if place[0] != "methods" or place[2] != "rule":
        return f"{sentence}; set it in the command or in conf/."
    name, others = str(place[1]), [each for each in config["methods"] if each != place[1]]
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.75)
    if close and config["methods"][name]:  # an empty file is no misspelt key
        return f"{sentence}, so there is no method '{name}'; did you mean '{close[0]}'?"
    return f"{sentence}; a method needs a rule, {{_target_: maxbench.fusion.Average}} for one."
