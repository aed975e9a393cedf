"""diffusers and transformers, imported when something of theirs is first used.

Their networks take seconds to import, and a command that makes no picture waits for none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import diffusers
    import transformers


class _Late:
    """A module of another package, which is imported at the first use of a name in it."""

    def __init__(self, name: str):
        self._name = name

    def __reduce__(self) -> tuple[type[_Late], tuple[str]]:
        return _Late, (self._name,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of Python's own protocols, such as copying: this object has none of them
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


if not TYPE_CHECKING:
    diffusers, transformers = _Late("diffusers"), _Late("transformers")
