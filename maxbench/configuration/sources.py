"""The parameters of our own components, from their source.

Rules and conditions need torch, which takes seconds to load. A mistake in the name of one of their parameters is
answered before that, by reading the class instead of importing it. Where a source does not say it plainly nothing is
said here: :mod:`maxbench.configuration.component` looks at the class itself later.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from maxbench.configuration.schema import nearest
from maxbench.errors import UserError

PACKAGE = Path(__file__).parents[1]


class Found(NamedTuple):
    """A class in the file that defines it."""

    definition: ast.ClassDef
    module: str


def check_components(value: Any, key: str = "") -> None:
    """Refuse parameters that a component of ours does not have; `value` is what a configuration has at `key`."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            _check(value, key)
        for name, inner in value.items():
            check_components(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            check_components(inner, f"{key}[{place}]")


def _check(entry: Mapping[str, Any], key: str) -> None:
    names = parameters(entry["_target_"])
    if names is None:
        return
    for name in entry:
        if name not in names and not (name.startswith("_") and name.endswith("_")):
            known = [f"{key}.{each}" for each in names]
            raise UserError(f"There is no setting '{key}.{name}'; {nearest(f'{key}.{name}', known)}")


def parameters(path: str) -> list[str] | None:
    """Names of what a dataclass of ours is made with; None for anything else."""
    module, _, name = path.rpartition(".")
    found = _find(module, name)
    if found is None:
        return None
    names: list[str] = []
    for each in _lineage(found):
        if each is None or _is_written_by_hand(each.definition):
            return None
        names += [name for name in _fields(each.definition) if name not in names]
    return names


def _find(module: str, name: str) -> Found | None:
    """The class that a name in a module of ours means, also where the module has it from another."""
    tree = _tree(module)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Found(node, module)
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return _find(node.module, name)
    return None


def _lineage(found: Found) -> Iterator[Found | None]:
    """A class after those that it extends; None for one that is not ours, or not plainly named."""
    for base in found.definition.bases:
        if isinstance(base, ast.Name) and base.id in ("ABC", "Protocol", "object"):
            continue
        inner = _find(found.module, base.id) if isinstance(base, ast.Name) else None
        if inner is None:
            yield None
        else:
            yield from _lineage(inner)
    yield found


def _is_written_by_hand(definition: ast.ClassDef) -> bool:
    """Whether a class makes itself, so that its fields do not say how."""
    return any(isinstance(each, ast.FunctionDef) and each.name in ("__init__", "__new__") for each in definition.body)


def _fields(definition: ast.ClassDef) -> list[str]:
    if not any("dataclass" in ast.unparse(each) for each in definition.decorator_list):
        return []
    annotated = (each for each in definition.body if isinstance(each, ast.AnnAssign))
    return [
        each.target.id
        for each in annotated
        if isinstance(each.target, ast.Name) and "ClassVar" not in ast.unparse(each.annotation)
    ]


@cache
def _tree(module: str) -> ast.Module | None:
    first, *rest = module.split(".")
    place = PACKAGE.joinpath(*rest)
    files = (place.with_suffix(".py"), place / "__init__.py") if rest else (PACKAGE / "__init__.py",)
    if first != PACKAGE.name or not all(each.isidentifier() for each in rest):
        return None
    file = next((each for each in files if each.is_file()), None)
    return None if file is None else ast.parse(file.read_bytes())
