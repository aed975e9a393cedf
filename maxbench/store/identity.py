"""What a configured object is, as plain data: the part of an artefact's key that its behaviour depends on.

A class of this package is known by its name and its `version`, which a person raises when its arithmetic changes, as
evaluation harnesses version their tasks: a refactoring loses nothing. A user's class is known by its source, and by the
source of every module of theirs that it imports; comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from maxbench.errors import UserError
from maxbench.store.files import digest

PACKAGE = Path(__file__).parents[1]


def identity(thing: Any) -> Any:
    """A JSON-like description of a value, function, class or configured object, equal for equal behaviour.

    Raises UserError for an object whose settings are no plain values.
    """
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else repr(thing)
    if isinstance(thing, Enum):
        return [name_of(type(thing)), thing.name]
    if isinstance(thing, Mapping):
        return {str(key): identity(value) for key, value in thing.items()}
    if isinstance(thing, Sequence | set | frozenset):
        return [identity(each) for each in (sorted(thing) if isinstance(thing, set | frozenset) else thing)]
    if isinstance(thing, partial):
        return {
            "call": identity(thing.func),
            "arguments": identity(thing.args),
            "keywords": identity({key: thing.keywords[key] for key in sorted(thing.keywords)}),
        }
    bound = getattr(thing, "__self__", None)
    if inspect.ismethod(thing) and isinstance(bound, type):  # a class method: its class decides
        return {"name": f"{name_of(bound)}.{thing.__name__}", **_code(bound)}
    if inspect.ismethod(thing):  # of an object, whose settings decide as well
        return {"method": thing.__name__, "of": identity(bound)}
    if isinstance(thing, type) or inspect.isroutine(thing):
        return {"name": name_of(thing), **_code(thing)}
    return {"class": name_of(type(thing)), **_code(type(thing)), "settings": identity(_settings(thing))}


def name_of(thing: Any) -> str:
    """A class or function by name; of ours without its module, so that moving it loses nothing."""
    package = thing.__module__.split(".")[0]
    return f"{package if package == PACKAGE.name else thing.__module__}.{thing.__qualname__}"


def _settings(thing: Any) -> dict[str, Any]:
    """All that an object holds: fields, other attributes, slots; what it computes of these when asked is left out."""
    kind = type(thing)
    if not is_dataclass(thing) and _is_library(kind):  # what it holds need not be seen from here, as of a tensor
        raise UserError(
            f"A setting is a {kind.__name__}, by which images cannot be known; give plain values instead "
            "(numbers, texts, lists)."
        )
    held = {field.name for field in fields(thing)} if is_dataclass(thing) else set()
    held |= set(getattr(thing, "__dict__", ())) | {name for base in kind.__mro__ for name in _slots(base)}
    settings = {
        name: getattr(thing, name)
        for name in sorted(held)
        if hasattr(thing, name) and not isinstance(getattr(kind, name, None), cached_property)
    }
    for name, value in settings.items():
        plain = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
        if not plain and not is_dataclass(thing):
            raise UserError(
                f"{name_of(kind)} keeps a {type(value).__name__} in '{name}', by which images cannot be known; keep "
                "plain values there (numbers, texts, lists), best as the fields of a dataclass."
            )
    return settings


def _slots(base: type) -> tuple[str, ...]:
    slots = vars(base).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _code(thing: Any) -> dict[str, Any]:
    """Versions of the classes of ours that a thing is or extends, and a user's source; nothing of a library's."""
    module = sys.modules.get(thing.__module__)
    bases = thing.__mro__ if isinstance(thing, type) else ()
    versions = {name_of(base): vars(base)["version"] for base in bases if _is_versioned(base)}
    code: dict[str, Any] = {"versions": versions} if versions else {}
    extends_ours = versions and thing.__module__.split(".")[0] != PACKAGE.name  # also from an installed package
    if module is not None and (extends_ours or _is_users(module)):
        code["source"] = _source_of(thing)
    return code


@cache  # a class is what it was when its module was loaded
def _source_of(thing: Any) -> str:
    return source_digest(sys.modules[thing.__module__])


def _is_versioned(base: type) -> bool:
    return base.__module__.split(".")[0] == PACKAGE.name and "version" in vars(base)


def source_digest(module: ModuleType) -> str:
    """SHA-256 of what a user's module does, and every module of theirs that it imports, directly or not.

    Theirs are those outside of the folders of libraries, and those of the same package as the module.
    """
    found: dict[str, Path] = {}
    own = module.__name__.split(".")[0]
    waiting = {name: place for name in _with_parents(module.__name__) if (place := _user_file(name, own)) is not None}
    while waiting:
        name, path = waiting.popitem()
        found[name] = path
        for other in {each for imported in _imported(name, path) for each in _with_parents(imported)}:
            if other not in found and (place := _user_file(other, own)) is not None:
                waiting[other] = place
    return digest("".join(f"{name}\n{_meaning(path)}" for name, path in sorted(found.items())))


def _with_parents(module: str) -> list[str]:
    """A module and the packages that it lies in, which are run before it."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _imported(module: str, path: Path) -> Iterator[str]:
    """Names of the modules that a module may import; of `from a import b` both a and a.b."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(_source(path), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _user_file(name: str, own: str) -> Path | None:
    """The file of a user's module, imported yet or not, also of an installed package `own`; None for any other."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # of a parent, which is imported for it; a module for another system may raise anything
            return None
        file = None if spec is None else spec.origin
    theirs = name.split(".")[0] == own and file is not None and file.endswith(".py")
    return Path(file) if theirs or _is_users_file(file) else None


def _is_users(module: ModuleType) -> bool:
    return _is_users_file(getattr(module, "__file__", None))


@cache
def _is_users_file(file: str | None) -> bool:
    if file is None or not file.endswith(".py"):
        return False
    parents = Path(file).resolve().parents
    return PACKAGE not in parents and not any(folder in parents for folder in _library_folders())


def _is_library(kind: type) -> bool:
    """Whether a class is neither ours nor a user's."""
    module = sys.modules.get(kind.__module__)
    ours = kind.__module__.split(".")[0] == PACKAGE.name
    return not ours and kind.__module__ != "__main__" and not (module is not None and _is_users(module))


@cache
def _library_folders() -> tuple[Path, ...]:
    """Of this environment, and of others whose packages it sees: through a .pth file, or PYTHONPATH."""
    places = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("stdlib", "platstdlib"))]
    places += [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    return tuple(Path(place).resolve() for place in places if place)


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _tree(source: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"The source {path} cannot be read any more ({error}); restore it.")


def _meaning(path: Path) -> str:
    """A module's code without comments, docstrings and layout."""
    return _without_words(_source(path), path)


@cache
def _without_words(source: bytes, path: Path) -> str:
    """The same, of what stands in its file: every run of a process asks for it."""
    tree = _tree(source, path)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def code_fingerprint(*folders: Path) -> str:
    """SHA-256 of what all Python files in folders do: of results so cheap that no version is kept of their code."""
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return digest("".join(f"{path.name}\n{_meaning(path)}" for path in paths))
