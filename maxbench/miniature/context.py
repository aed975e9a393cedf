"""Where a family is trained: its corpus, its checkpoints, its finished parts, and what must be trained anew."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from maxbench.errors import UserError
from maxbench.miniature.corpus import WORLD_VERSION, Corpus, render_corpus
from maxbench.miniature.training import History, Recipe, fit

HISTORIES = "histories"
"""Where a family keeps how each part of it was trained: with the weights, so that whoever has them can train one more
part on top of the others."""


class Part(Protocol):
    """One network of the family. Its fields are all that its weights depend on, besides the parts it `needs`."""

    recipe: Recipe
    seed: int  # of its initial weights and of everything that its training draws
    subfolder: str  # where its weights go

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts that it is trained on top of."""
        ...

    def train(self, shop: TrainingContext) -> tuple[nn.Module, History]:
        """The finished network, and how it got there."""
        ...


@dataclass(frozen=True)
class TrainingContext:
    """What every part finds when it is trained.

    folder: checkpoints and whatever is computed once for all scenes. weights: finished parts.
    part, key: the part in work; the key changes with everything that its weights depend on. compile: whether networks
    are compiled, which takes minutes at first and pays in long trainings.
    """

    corpus: Corpus
    folder: Path
    weights: Path
    device: torch.device
    part: str = ""
    key: str = ""
    compile: bool = False

    def quick(self, net: nn.Module) -> nn.Module:
        """The network itself, laid out for speed and compiled if this training compiles; its weights are the same."""
        net.to(memory_format=torch.channels_last)
        if self.compile:
            net.compile()
        return net

    def images(self, index: Tensor) -> Tensor:
        """Rendered pictures (B, 3, S, S), float32 in [-1, 1]."""
        return torch.from_numpy(self.corpus.images[index.numpy()]).to(self.device).float() / 127.5 - 1

    def fit(self, part: Part, groups: Iterable[dict], loss_of: Callable[[torch.Generator, int], Tensor]) -> History:
        """Train the parameters in `groups`; see :func:`maxbench.miniature.training.fit`."""
        begun = self.folder / f"{self.part}-{self.key}"
        return fit(self.part, groups, loss_of, part.recipe, begun, seed=part.seed, device=self.device)

    def load(self, kind: type, subfolder: str) -> nn.Module:
        """A finished part, as a user of the suite will load it, in float32."""
        net = kind.from_pretrained(self.weights / subfolder, torch_dtype=torch.float32)
        return net.to(self.device).eval().requires_grad_(False)

    def once(self, name: str, of: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that is computed once for all scenes and for the finished part `of` ("" for none)."""
        version = self.corpus.name
        if of:
            known = read_history(self.weights, of)
            version = f"{known['key']}-{known['part']['recipe']['steps']}"
        path = self.folder / "arrays" / f"{name}-{version}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.npy")
            np.save(partial, make())
            partial.replace(path)
        return np.load(path, mmap_mode="r")


def describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def read_history(weights: Path, part: str) -> dict[str, Any]:
    """What is recorded of a finished part of a family; empty if it is not finished."""
    path = weights / HISTORIES / f"{part}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def world_of(weights: Path) -> int:
    """The version of the world that a family was trained on; the shipped one's where its histories do not say."""
    said = (read_history(weights, path.stem) for path in sorted((weights / HISTORIES).glob("*.json")))
    worlds = {each["data"]["world"] for each in said if "data" in each} or {WORLD_VERSION}
    if len(worlds) > 1:
        versions = " and ".join(map(str, sorted(worlds)))
        raise UserError(
            f"{weights} has parts of the versions {versions} of the world; train them anew, in another folder."
        )
    return worlds.pop()


def write_history(weights: Path, part: str, record: dict[str, Any]) -> None:
    """Record that a part is finished, and how it got there."""
    path = weights / HISTORIES / f"{part}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def keys_of(parts: dict[str, Part], data: Sequence[int], version: int = WORLD_VERSION) -> dict[str, str]:
    """A short digest for each part of its own fields, of its data and of everything it needs.

    The number of steps is left out: a training may be prolonged or cut short.
    """
    keys: dict[str, str] = {}

    def key(name: str) -> str:
        if name not in keys:
            if name not in parts:
                raise UserError(f"A part needs '{name}', which is not among {', '.join(parts)}; add it to parts.")
            part = parts[name]
            fields = {**asdict(part), "recipe": {**asdict(part.recipe), "steps": None}, "kind": type(part).__name__}
            said = json.dumps([fields, version, *data, [key(need) for need in part.needs]], sort_keys=True)
            keys[name] = hashlib.sha256(said.encode()).hexdigest()[:12]
        return keys[name]

    return {name: key(name) for name in parts}


def train(
    parts: dict[str, Part],
    names: Iterable[str],
    *,
    weights: Path,
    folder: Path,
    scenes: int,
    size: int,
    seed: int,
    device: str,
    shorten: float = 1.0,
    compile: bool = False,
    version: int = WORLD_VERSION,
) -> None:
    """Train the named parts, those that others need first; a finished part is not trained again.

    A part is finished when its history has the key of its present settings. What it needs and is not named must
    be finished. scenes, size, seed: of the corpus. shorten multiplies every recipe's steps.
    version: of the world. compile: see :class:`TrainingContext`.
    """
    known = world_of(weights)
    if version != known and any((weights / HISTORIES).glob("*.json")):
        raise UserError(
            f"The parts in {weights} know version {known} of the world, not {version}; leave out world=, or name "
            "another folder with weights=."
        )
    keys, wanted, order = keys_of(parts, [scenes, size, seed], version), list(names), []

    def enter(name: str) -> None:
        if name not in parts:
            raise UserError(f"There is no part '{name}'; the parts are {', '.join(parts)}.")
        for need in parts[name].needs:
            enter(need)
        if name not in order:
            order.append(name)

    for name in wanted:
        enter(name)
    corpus: Corpus | None = None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    for name in order:
        if read_history(weights, name).get("key") == keys[name]:
            print(f"{name}: already trained", flush=True)
            continue
        if name not in wanted:
            raise UserError(f"'{name}' must be trained first, for {', '.join(wanted)}; add it to only=[...].")
        corpus = corpus or render_corpus(scenes, seed, size, folder, version)
        part = parts[name]
        steps = max(2, round(part.recipe.steps * shorten))
        part = replace(part, recipe=replace(part.recipe, steps=steps, warmup=min(part.recipe.warmup, steps)))
        torch.manual_seed(part.seed + sum(name.encode()))  # of the initial weights; every part has its own
        shop = TrainingContext(corpus, folder, weights, where, name, keys[name], compile)
        net, history = part.train(shop)
        if hasattr(net, "register_to_config"):
            net.register_to_config(_name_or_path="")  # where a part was loaded from is nobody's business
        net.half().to(memory_format=torch.contiguous_format).save_pretrained(weights / part.subfolder)
        data = {"world": version, "scenes": scenes, "size": size, "seed": seed}
        record = {"key": keys[name], "data": data, "part": asdict(part), "device": describe(where), **history}
        write_history(weights, name, record)  # last: it says that the part is finished
