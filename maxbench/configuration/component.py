"""A component of the configuration, `_target_` and parameters, as an object; what does not fit becomes a sentence."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from maxbench.configuration.schema import nearest
from maxbench.errors import UserError
from maxbench.fusion import Rule
from maxbench.models.pipeline import Sampler


class Kind(NamedTuple):
    """What a component must be: in words, and as a test of its class.

    within: whether components in its parameters are of the kind as well, as the rules are that a rule is made of.
    """

    words: str
    fits: Callable[[type], bool]
    within: bool = True


RULE = Kind("no maxbench.fusion.Rule; give a class that inherits from it", lambda made: issubclass(made, Rule))
SAMPLER = Kind(
    "no maxbench.models.pipeline.Sampler; give a class that inherits from it",
    lambda made: issubclass(made, Sampler),
    within=False,
)
CONDITION = Kind(
    "no condition; give a class with draw, hint and rulers, as in maxbench/conditions/",
    lambda made: all(hasattr(made, name) for name in ("draw", "hint", "rulers")),
)
PAIRING = Kind("no pairing; give a class with plan, as in maxbench/data/pairing.py", lambda made: hasattr(made, "plan"))


def component(entry: Mapping[str, Any], key: str, kind: Kind | None = None) -> Any:
    """The object that an entry of the configuration stands for; `key` is where it lies.

    What it names is found and compared with its parameters before anything is called.
    """
    for place, inner in _components(entry, key):
        found = locate(inner["_target_"], f"{place}._target_")
        concerned = kind is not None and (place == key or kind.within)
        if concerned and not (isinstance(found, type) and kind.fits(found)):
            raise UserError(f"{place}._target_ is '{inner['_target_']}', which is {kind.words}.")
        _check_parameters(found, inner, place)
    try:
        return instantiate(dict(entry), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        said = " ".join(str(cause or error).split())
        raise UserError(f"{key}: {said}; correct it in the command or in conf/.") from error


def _components(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A component and all in its parameters, each with where it lies."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        for name, inner in value.items():
            yield from _components(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _components(inner, f"{key}[{place}]")


def locate(path: str, key: str) -> Any:
    """What a dotted path names; modules are imported on the way, and nothing is called."""
    names = path.split(".")
    found: Any = _module(names[0], path, key)
    if found is None:
        raise UserError(
            f"{key} is '{path}', and there is no module '{names[0]}'; correct it, or put its folder on PYTHONPATH."
        )
    for depth, name in enumerate(names[1:], start=2):
        owner, found = found, getattr(found, name, None)
        if found is None and isinstance(owner, ModuleType):
            found = _module(".".join(names[:depth]), path, key)
        if found is None:
            parent = ".".join(names[: depth - 1])
            raise UserError(f"{key} is '{path}', and {parent} has no '{name}'; {nearest(name, _public(owner))}")
    if not callable(found):
        raise UserError(f"{key} is '{path}', which is no class and no function; name one.")
    return found


def _module(name: str, path: str, key: str) -> ModuleType | None:
    """A module, or None where there is none of this name; what it raises is reported."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and f"{name}.".startswith(f"{error.name}.")
        ):
            return None
        said = " ".join(str(error).split())
        raise UserError(
            f"{key} is '{path}', and importing {name} fails with {type(error).__name__}: {said}."
        ) from error


def _public(owner: Any) -> list[str]:
    """Names that can be meant: what a module says it offers, else all that it has."""
    if hasattr(owner, "__all__"):
        return list(owner.__all__)
    modules = [each.name for each in pkgutil.iter_modules(getattr(owner, "__path__", ()))]
    return sorted({name for name in [*dir(owner), *modules] if name[0] != "_"})


def _check_parameters(found: Callable[..., Any], entry: Mapping[str, Any], key: str) -> None:
    """Refuse parameters that a class does not have and miss none that it needs, by their dotted keys."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # of a class that is not written in Python
        return
    names = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    given = [name for name in entry if not (name.startswith("_") and name.endswith("_"))]
    for name in given:
        if name not in names and all(each.kind != each.VAR_KEYWORD for each in parameters):
            raise UserError(
                f"There is no setting '{key}.{name}'; {nearest(f'{key}.{name}', [f'{key}.{each}' for each in names])}"
            )
    for each in parameters:
        required = each.default is each.empty and each.name in names
        if required and each.name not in given and not entry.get("_partial_"):
            raise UserError(f"{key}.{each.name} is missing; {entry['_target_']} needs it.")
