"""The house: who may import whom. Rooms are listed from the ground floor up."""

import ast
from pathlib import Path

import pytest

import maxbench

PACKAGE = Path(maxbench.__file__).parent

ALLOWED = {
    "errors": set(),
    "seeds": set(),
    "progress": set(),
    "fusion": set(),
    "images": {"errors"},
    "runfolder": {"errors"},
    "lockstep": {"errors", "fusion"},
    "diagnostics": {"fusion"},
    "metrics": set(),
    "conditions": {"errors", "images", "metrics"},
    "data": {"errors", "images", "seeds"},
    "control": {"errors", "fusion", "lockstep"},
    "pipeline": {"control", "errors", "fusion"},
    "experiment": {"control", "errors", "conditions", "data", "lockstep"},
    "suites": {"errors", "conditions", "control", "pipeline"},
    "miniature": {"errors", "data", "images", "metrics", "progress", "runfolder", "suites"},
    "stamp": {"maxbench", "runfolder"},
    "report": {"errors"},
    "given": {"conditions", "data", "experiment", "images", "progress", "runfolder"},
    "sampling": {"control", "data", "experiment", "given", "pipeline", "seeds"},
    "strength": {"control", "data", "errors", "experiment", "pipeline", "progress", "runfolder", "sampling"},
    "watching": {"data", "diagnostics", "experiment", "given", "progress", "runfolder", "sampling"},
    "generate": {"errors", "experiment", "given", "images", "progress", "sampling", "strength", "watching"},
    "scores": {"conditions", "experiment", "metrics", "runfolder"},
    "evaluate": {
        "conditions", "errors", "experiment", "generate", "given", "images", "metrics", "progress", "runfolder",
        "scores",
    },
    "config": {"data", "errors", "experiment", "pipeline", "strength", "suites", "watching"},
    "shelf": {"config", "errors", "miniature", "report"},
    "doctor": {"maxbench", "config", "report", "shelf", "stamp", "suites"},
    "cli": {
        "maxbench", "config", "data", "errors", "evaluate", "generate", "given", "images", "progress", "report",
        "runfolder", "sampling", "stamp", "strength",
    },
    "__main__": {"maxbench", "cli", "doctor", "errors", "shelf"},
}  # fmt: skip

# What a room must never touch, by the name of the foreign package.
FORBIDDEN = {
    "fusion": {"diffusers", "transformers", "numpy", "PIL", "hydra"},
    "seeds": {"diffusers", "transformers", "numpy", "PIL", "hydra"},
    "report": {"torch", "diffusers", "transformers", "hydra"},
    "given": {"hydra", "torchmetrics", "pandas", "diffusers"},
    "sampling": {"hydra", "PIL", "diffusers"},
    "generate": {"hydra", "torchmetrics", "pandas"},
    "evaluate": {"hydra", "diffusers", "transformers"},
    "scores": {"torch", "hydra", "diffusers", "transformers"},
    "metrics": {"hydra", "diffusers", "transformers"},
    "pipeline": {"hydra", "PIL"},
    "control": {"hydra", "PIL"},
    "strength": {"hydra", "PIL"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "maxbench":
                yield from (f"maxbench.{alias.name}" for alias in node.names)
            else:
                yield node.module


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.name != "__init__.py":
            yield place.parts[0].removesuffix(".py"), path


def room_of(module):
    parts = module.split(".")
    return "maxbench" if len(parts) == 1 or parts[1].startswith("__version") else parts[1]


@pytest.mark.parametrize(("room", "path"), list(rooms()), ids=lambda value: str(getattr(value, "stem", value)))
def test_imports_go_downwards(room, path):
    assert room in ALLOWED, f"a new room '{room}': say in this test what it may import"
    for module in imports(path):
        if module.split(".")[0] == "maxbench" and room_of(module) != room:
            assert room_of(module) in ALLOWED[room], (
                f"{room} imports {module}: its floor allows {sorted(ALLOWED[room])}; move the code, not the wall"
            )
        assert module.split(".")[0] not in FORBIDDEN.get(room, set()), f"{room} must not know {module}"


def test_there_are_no_circles():
    done = set()
    for room, below in ALLOWED.items():
        higher = {each for each in below if each != "maxbench" and each not in done}
        assert not higher, f"{room} is listed below {higher}, which it imports"
        done.add(room)


def test_members_of_a_folder_know_only_its_base():
    for folder in ("conditions", "fusion", "report", "suites"):
        for path in (PACKAGE / folder).glob("[!_]*.py"):
            for module in imports(path):
                if module == "maxbench.models.image_prompt":  # a suite's own tool
                    continue
                if module.startswith(f"maxbench.{folder}."):
                    assert module == f"maxbench.{folder}.base", f"{path.name} imports its neighbour {module}"
