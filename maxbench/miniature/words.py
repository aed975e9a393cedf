"""How people would say what a scene shows: counts, patterns, colours, kinds and places, in varied wording."""

from __future__ import annotations

import re

import numpy as np

from maxbench.miniature.world import FOCAL, Scene, Solid

COUNTS = {1: "a", 2: "two", 3: "three"}
PLURALS = {"sphere": "spheres", "box": "boxes", "cone": "cones", "cylinder": "cylinders"}
OPENINGS = ("", "", "", "a picture of ", "we see ", "a scene with ")
GROUNDS = {
    "grass": ("on grass", "on a green lawn"), "sand": ("on sand", "on a beach"),
    "tiles": ("on tiles", "on a checkered floor"), "water": ("on water", "on blue water"),
}  # fmt: skip
SKIES = {
    "clear": ("under a clear sky", "under a blue sky"), "cloudy": ("under a cloudy sky", "under a grey sky"),
    "sunset": ("at sunset", "under an orange sky"),
}  # fmt: skip
RELIEFS = {"flat": (), "hilly": ("with hills", "before hills"), "mounds": ("with mounds", "on uneven ground")}


NOUN = re.compile(rf"\b(?:({'|'.join(PLURALS)})|({'|'.join(PLURALS.values())}))\b")


def lone_kind(text: str) -> str | None:
    """The kind of the one solid that a text names; None where it names none, several, or more than one of a kind."""
    found = NOUN.findall(text)
    return found[0][0] or None if len(found) == 1 else None


def place(solid: Solid) -> str:
    """Where in the picture a solid stands."""
    column = solid.x / solid.z * FOCAL
    return "on the left" if column < -0.25 else "on the right" if column > 0.25 else "in the middle"


def look(solid: Solid, patterns: bool = True) -> str:
    """The pattern, unless it is plain, and the colour of a solid."""
    return f"{solid.pattern} {solid.colour}" if patterns and solid.pattern != "plain" else solid.colour


def phrase(solid: Solid) -> str:
    """One solid by all that the words can say of it, wherever it stands: "a striped red sphere"."""
    return f"{COUNTS[1]} {look(solid)} {solid.shape}"


def caption(scene: Scene, rng: np.random.Generator, drop: float = 0.0) -> str:
    """Say what a scene shows; each clause but the solids is left out with chance `drop`.

    Pass the result of :func:`maxbench.miniature.world.visible`, so that the words name what the picture shows.
    Every caption of a scene names the count, colour and kind of its solids.
    """

    def keep() -> bool:
        return rng.random() >= drop

    def choose(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    patterns, places = keep(), keep() and rng.random() < 0.75

    kinds: dict[tuple[str, str], list[Solid]] = {}  # solids that the words cannot tell apart are counted
    for solid in scene.solids:
        kinds.setdefault((look(solid, patterns), solid.shape), []).append(solid)
    phrases = []
    for (seen, shape), solids in kinds.items():
        noun = shape if len(solids) == 1 else PLURALS[shape]
        where = f" {place(solids[0])}" if places and len({place(solid) for solid in solids}) == 1 else ""
        phrases.append(f"{COUNTS[len(solids)]} {seen} {noun}{where}")
    joined = " and ".join(phrases) if len(phrases) < 3 else f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    subject = choose(OPENINGS) + joined if phrases else "an empty scene"
    ground = choose(GROUNDS[scene.ground]) if keep() else ""
    sky = choose(SKIES[scene.sky]) if keep() else ""
    relief = choose(RELIEFS[scene.relief]) if RELIEFS[scene.relief] and keep() else ""
    clauses = [ground, sky, relief]
    if ground and rng.random() < 0.2:  # "on sand, two red boxes under a clear sky"
        subject, clauses = f"{ground}, {subject}", [sky, relief]
    return " ".join([subject, *(clause for clause in clauses if clause)])
