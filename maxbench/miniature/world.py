"""A small world of solids on textured ground: what can be in it.

A scene is data (:class:`Scene`), drawn from a generator by :func:`sample_scene`. Each condition sees something
that the others do not: patterns and tiles show only in edges, mounds and distance only in depth, the kind of
ground or solid only in the segmentation.

Units: metres; x to the right, y up, z away from the camera, which stands at (0, `CAMERA_HEIGHT`, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Framing:
    """How solids stand before the camera.

    near, far: metres to the nearest and the farthest one. sizes: least and greatest radius or half width, in metres.
    aside: how far from the middle, in half picture heights. counts: chances of one solid, of two, ...
    gap: least distance of two, as a multiple of the sum of their sizes.
    """

    near: float
    far: float
    sizes: tuple[float, float]
    aside: float
    counts: tuple[float, ...]
    gap: float


FRAMINGS = {
    2: Framing(near=2.6, far=5.4, sizes=(0.42, 0.85), aside=0.62, counts=(0.35, 0.4, 0.25), gap=1.5),
    # nearer, larger and fewer: what a kind looks like is learnt from pixels, and shown by them
    3: Framing(near=2.3, far=3.6, sizes=(0.55, 0.95), aside=0.55, counts=(0.6, 0.4), gap=1.2),
}
"""Version of the world -> its framing; the last is of the parts that are being trained. None is ever changed: scenes
that were rendered and parts that were trained are known by the number alone."""

CAMERA_HEIGHT = 1.5
FOCAL = 1.3  # in half picture heights
NEAR = 1.4  # metres: depth is 1 here and closer
FAR_DEPTH = 0.15  # the darkest depth a scene contains (the sky); below it lies only "nothing said"
RIDGES = (13.0, 21.0)  # metres at which the two hill silhouettes stand
TWINS = 0.3  # chance that all solids of a scene share kind, colour and pattern

SHAPES = ("sphere", "box", "cone", "cylinder")
COLOURS = {
    "red": (0.86, 0.12, 0.12), "green": (0.10, 0.62, 0.20), "blue": (0.14, 0.28, 0.90),
    "yellow": (0.95, 0.84, 0.14), "purple": (0.58, 0.16, 0.72), "white": (0.93, 0.93, 0.93),
}  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checked")
GROUNDS = ("grass", "sand", "tiles", "water")
SKIES = ("clear", "cloudy", "sunset")
RELIEFS = ("flat", "hilly", "mounds")

CLASSES = ("nothing", "sky", "hill", *GROUNDS, *SHAPES)
"""Segmentation classes; 0 is "nothing said" and no rendered pixel has it."""

SOLIDS = slice(len(CLASSES) - len(SHAPES), None)
"""The classes that are solids: few pixels, hard to tell."""

PALETTE = np.array(
    [
        (0, 0, 0), (0, 120, 255), (132, 84, 36),
        (0, 190, 0), (240, 220, 120), (150, 150, 150), (0, 0, 160),
        (255, 0, 0), (255, 0, 255), (255, 140, 0), (0, 255, 255),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""(classes, 3) uint8 RGB of every class in a segmentation map."""


@dataclass(frozen=True)
class Solid:
    """One solid on the ground: its shape, look, place (x, z) and size (radius or half width), in metres."""

    shape: str
    colour: str
    pattern: str
    x: float
    z: float
    size: float
    stretch: float  # height as a multiple of the width
    yaw: float  # radians, seen on boxes and dots

    @property
    def height(self) -> float:
        return 2 * self.size if self.shape == "sphere" else 2 * self.size * self.stretch


@dataclass(frozen=True)
class Scene:
    """Everything a picture is rendered from; equal scenes give equal bytes."""

    sky: str
    ground: str
    relief: str
    pitch: float  # radians, camera looking down
    sun: tuple[float, float, float]  # unit vector towards the light
    solids: tuple[Solid, ...]
    mounds: tuple[tuple[float, float, float, float], ...]  # (x, z, radius, height) of each
    phases: tuple[float, ...]  # of every wave in ridges, textures and clouds
    hill_colour: tuple[float, float, float]


def sample_scene(rng: np.random.Generator, framing: Framing) -> Scene:
    """Draw a scene; the same generator state gives the same scene."""
    pitch = rng.uniform(-0.04, 0.26)
    angle, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1)
    sun = (np.cos(angle) * np.cos(elevation), np.sin(elevation), -abs(np.sin(angle)) * np.cos(elevation))
    relief = RELIEFS[rng.choice(3, p=(0.35, 0.4, 0.25))]
    mounds = tuple(
        tuple(float(rng.uniform(*span)) for span in ((-3, 3), (4, 8.5), (1.3, 2.6), (0.6, 1.25)))
        for _ in range(int(rng.integers(1, 4)) if relief == "mounds" else 0)
    )
    solids: list[Solid] = []
    alike = rng.random() < TWINS  # solids of one kind and look, so that counts are worth saying
    for _ in range(1 + int(rng.choice(len(framing.counts), p=framing.counts))):
        for _attempt in range(12):
            solid = _sample_solid(rng, framing)
            if alike and solids:
                first = solids[0]
                solid = replace(solid, shape=first.shape, colour=first.colour, pattern=first.pattern)
            if all(_apart(solid, other, framing.gap) for other in solids):
                solids.append(solid)
                break
    return Scene(
        sky=SKIES[rng.integers(3)],
        ground=GROUNDS[rng.integers(4)],
        relief=relief,
        pitch=float(pitch),
        sun=tuple(float(value) for value in sun),
        solids=tuple(solids),
        mounds=mounds,
        phases=tuple(float(value) for value in rng.uniform(0, 2 * np.pi, 12)),
        hill_colour=((0.25, 0.42, 0.22), (0.45, 0.36, 0.28), (0.38, 0.38, 0.50))[rng.integers(3)],
    )


def _sample_solid(rng: np.random.Generator, framing: Framing) -> Solid:
    z = float(rng.uniform(framing.near, framing.far))
    shape = SHAPES[rng.integers(4)]
    return Solid(
        shape=shape,
        colour=tuple(COLOURS)[rng.integers(6)],
        pattern=PATTERNS[rng.choice(4, p=(0.4, 0.22, 0.19, 0.19))],
        x=float(rng.uniform(-framing.aside, framing.aside) * z / FOCAL),
        z=z,
        size=float(rng.uniform(*framing.sizes)) * (0.8 if shape == "box" else 1.0),  # a box shows its diagonal
        stretch=float(rng.uniform(0.85, 1.5)),
        yaw=float(rng.uniform(0.15, np.pi / 2 - 0.15)),
    )


def _apart(solid: Solid, other: Solid, gap: float) -> bool:
    """Solids stand apart, and neither hides more than about half of the other.

    With a gap below the square root of 2 two boxes may meet at their corners: of version 3, one pair in 250.
    """
    distance = np.hypot(solid.x - other.x, solid.z - other.z)
    shift = abs(solid.x / solid.z - other.x / other.z)
    smaller = min(solid.size / solid.z, other.size / other.z)
    return distance > gap * (solid.size + other.size) and shift > 1.1 * smaller


VISIBLE = 12  # pixels of a solid from which on it is seen and named


def visible(scene: Scene, instances: np.ndarray, pixels: int = VISIBLE) -> Scene:
    """The scene with only the solids that have `pixels` pixels in the rendered `instances`, left to right."""
    area = np.bincount(instances.ravel(), minlength=len(scene.solids) + 1)[1:]
    seen = [solid for solid, count in zip(scene.solids, area, strict=True) if count >= pixels]
    return replace(scene, solids=tuple(sorted(seen, key=lambda solid: solid.x / solid.z)))
