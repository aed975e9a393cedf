"""From a scene to its picture and to everything that is exactly known about it: one ray per sub-pixel.

Units are the world's: metres, x to the right, y up, z away from the camera. Vectors are (3, n) float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from maxbench.miniature.world import (
    CAMERA_HEIGHT,
    CLASSES,
    COLOURS,
    FAR_DEPTH,
    FOCAL,
    NEAR,
    RIDGES,
    Scene,
    Solid,
)


@dataclass(frozen=True)
class Rendering:
    """A picture and what is exactly known about it; all arrays are (size, size[, 3])."""

    image: np.ndarray  # uint8 RGB
    depth: np.ndarray  # float32 in [FAR_DEPTH, 1], root of the inverse distance, near = 1
    segmentation: np.ndarray  # uint8, index into CLASSES
    instances: np.ndarray  # uint8, 0 = no solid, i + 1 = scene.solids[i]
    edges: np.ndarray  # float32 in [0, 1], soft: outlines and patterns, no shading, no shadow


# --- rays -------------------------------------------------------------------------------------------------


def _rays(size: int, pitch: float) -> np.ndarray:
    """Directions of the rays through a size x size picture, (3, size * size) float32, not normalised."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    u, v = np.meshgrid(line, -line)
    cos, sin = np.float32(np.cos(pitch)), np.float32(np.sin(pitch))
    return np.stack([u, v * cos - FOCAL * sin, v * sin + FOCAL * cos]).reshape(3, -1)


def _nearest(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both roots of a t^2 + 2 b t + c, nearer first; NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(b * b - a * c)
        first, second = (-b - root) / a, (-b + root) / a
        return np.minimum(first, second), np.maximum(first, second)


def _sphere(origin, way, radii) -> np.ndarray:
    """Distance along the ray to an ellipsoid at the origin with the given radii; inf where it is missed."""
    radii = np.asarray(radii, np.float32)[:, None]
    origin, way = origin / radii, way / radii
    t, _ = _nearest((way * way).sum(0), (origin * way).sum(0), (origin * origin).sum(0) - 1)
    return np.where(t > 1e-3, t, np.inf)


def _box(origin, way, half_width: float, height: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.array([-half_width, 0, -half_width], np.float32)[:, None]
        high = np.array([half_width, height, half_width], np.float32)[:, None]
        one, two = (low - origin) / way, (high - origin) / way
        enter, leave = np.minimum(one, two).max(0), np.maximum(one, two).min(0)
    return np.where((enter < leave) & (enter > 1e-3), enter, np.inf)


def _cylinder(origin, way, radius: float, height: float) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, way
    near, far = _nearest(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - radius * radius)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = (height - oy) / dy
        y = oy + near * dy
        side = np.where((near > 1e-3) & (y >= 0) & (y <= height), near, np.inf)
        cap = np.where((top > 1e-3) & (top >= near) & (top <= far), top, np.inf)
    return np.minimum(side, cap)


def _cone(origin, way, radius: float, height: float) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, way
    slope = (radius / height) ** 2
    down = height - oy  # distance below the apex
    a = dx * dx + dz * dz - slope * dy * dy
    b = ox * dx + oz * dz + slope * down * dy
    c = ox * ox + oz * oz - slope * down * down
    t = np.full(np.broadcast(a, c).shape, np.inf, np.float32)
    for root in _nearest(a, b, c):  # the nearer root may lie on the mirrored cone above the apex
        y = oy + root * dy
        t = np.minimum(t, np.where((root > 1e-3) & (y >= 0) & (y <= height), root, np.inf))
    return t


def _turn(vectors: np.ndarray, yaw: float) -> np.ndarray:
    """Rotate (3, n) vectors about the vertical axis by -yaw: world to solid coordinates."""
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    x, y, z = vectors
    return np.stack([cos * x - sin * z, y, sin * x + cos * z])


def _hit(solid: Solid, origin: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Distance (in units of `way`) at which rays from `origin` meet a solid, inf where they do not."""
    local = origin - np.array([solid.x, 0, solid.z], np.float32)[:, None]
    if solid.shape == "sphere":
        lift = np.array([0, solid.size, 0], np.float32)[:, None]
        return _sphere(local - lift, way, (solid.size,) * 3)
    if solid.shape == "box":
        return _box(_turn(local, solid.yaw), _turn(way, solid.yaw), solid.size, solid.height)
    meet = _cylinder if solid.shape == "cylinder" else _cone
    return meet(local, way, solid.size, solid.height)


def _normal(solid: Solid, point: np.ndarray) -> np.ndarray:
    """Outward unit normals (3, n) of a solid at world points (3, n) on its surface."""
    local = point - np.array([solid.x, 0, solid.z], np.float32)[:, None]
    x, y, z = local
    if solid.shape == "sphere":
        normal = np.stack([x, y - solid.size, z])
    elif solid.shape == "box":
        inside = _turn(local, solid.yaw)
        half = np.array([solid.size, solid.height / 2, solid.size], np.float32)[:, None]
        centred = (inside - np.array([0, solid.height / 2, 0], np.float32)[:, None]) / half
        face = np.abs(centred) >= np.abs(centred).max(0) - 1e-4
        normal = _turn(face * np.sign(centred), -solid.yaw)
    elif solid.shape == "cylinder":
        top = y >= solid.height - 1e-3
        normal = np.stack([np.where(top, 0, x), np.where(top, 1, 0), np.where(top, 0, z)])
    else:
        normal = np.stack([x, np.hypot(x, z) * solid.size / solid.height, z])
    return normal / np.maximum(np.linalg.norm(normal, axis=0), 1e-6)


# --- colours ----------------------------------------------------------------------------------------------


def _solid_albedo(solid: Solid, point: np.ndarray) -> np.ndarray:
    """Unlit colour (3, n) of a solid at world points on its surface: plain, banded, dotted or checked."""
    colour = np.array(COLOURS[solid.colour], np.float32)
    other = 0.22 * colour if solid.colour in ("white", "yellow") else 0.35 * colour + 0.65
    x, y, z = _turn(point - np.array([solid.x, 0, solid.z], np.float32)[:, None], solid.yaw)
    if solid.pattern == "striped":
        mark = np.sin(y * (2.5 * 2 * np.pi / solid.height) + 0.6) > 0
    elif solid.pattern == "checked":
        around = np.arctan2(x, z) * 3 if solid.shape != "box" else (x - z) * (4 / solid.size)
        mark = np.sin(around) * np.sin(y * (2 * 2 * np.pi / solid.height) + 0.6) > 0
    elif solid.pattern == "dotted":
        around = np.arctan2(x, z) * 4 if solid.shape != "box" else (x + z) * (5 / solid.size)
        mark = np.sin(around) * np.sin(y * (2.5 * 2 * np.pi / solid.height)) > 0.45
    else:
        mark = np.zeros(x.shape, bool)
    return np.where(mark, other[:, None], colour[:, None])


def _ground_albedo(scene: Scene, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Unlit colour (3, n) of the ground at world places; texture fades with distance, as far grass does."""
    p = scene.phases
    fade = np.exp(-np.maximum(z - 3, 0) / 6)
    if scene.ground == "grass":
        tuft = np.sin(9 * x + 4 * np.sin(2.3 * z + p[0])) * np.sin(11 * z + 3 * np.sin(1.9 * x + p[1]))
        base, swing, wave = (0.22, 0.55, 0.18), (0.05, 0.10, 0.03), tuft
    elif scene.ground == "sand":
        ripple = np.sin(5 * z + 1.5 * np.sin(1.3 * x + p[2]) + p[3])
        base, swing, wave = (0.86, 0.74, 0.50), (0.05, 0.05, 0.05), ripple
    elif scene.ground == "tiles":
        check = np.sign(np.sin(np.pi * x / 0.9 + p[4]) * np.sin(np.pi * z / 0.9 + p[5]))
        base, swing, wave = (0.56, 0.53, 0.51), (0.17, 0.17, 0.17), check
        fade = np.exp(-np.maximum(z - 6, 0) / 8)
    else:
        wave = np.sin(6 * z + 1.2 * np.sin(2.1 * x + p[6]) + p[7]) * (0.7 + 0.3 * np.sin(3 * x + p[8]))
        base, swing = (0.12, 0.32, 0.56), (0.06, 0.10, 0.12)
    return np.array(base, np.float32)[:, None] + np.array(swing, np.float32)[:, None] * (wave * fade)


def _sky_colour(scene: Scene, way: np.ndarray) -> np.ndarray:
    """Colour (3, n) of the sky along ray directions: a vertical gradient, with bands of cloud if cloudy."""
    across, up = way[0] / way[2], np.clip(way[1] / way[2] / 0.8, 0, 1)
    low, high = {
        "clear": ((0.80, 0.90, 0.98), (0.25, 0.52, 0.92)),
        "cloudy": ((0.80, 0.82, 0.84), (0.52, 0.55, 0.60)),
        "sunset": ((0.98, 0.74, 0.36), (0.70, 0.30, 0.42)),
    }[scene.sky]
    colour = np.array(low, np.float32)[:, None] * (1 - up) + np.array(high, np.float32)[:, None] * up
    if scene.sky == "cloudy":
        p = scene.phases
        cloud = np.sin(3 * across + 9 * up + p[9]) + np.sin(7 * across - 5 * up + p[10])
        colour = colour + 0.05 * np.clip(cloud, -1, 1)
    return colour


def _ridge(scene: Scene, level: int, x: np.ndarray) -> np.ndarray:
    """Height in metres of hill silhouette `level` above the ground at x."""
    p = scene.phases[3 * level : 3 * level + 3]
    scale = (1.0, 1.9)[level]
    wave = np.sin(0.21 * x + p[0]) + 0.5 * np.sin(0.43 * x + p[1]) + 0.12 * np.sin(1.3 * x + p[2])
    return scale * (1.9 + wave)


# --- the picture ------------------------------------------------------------------------------------------


def render(scene: Scene, size: int = 64, supersample: int = 2) -> Rendering:
    """Render a scene at size x size pixels with `supersample`^2 rays each; see :class:`Rendering`."""
    fine = size * supersample
    way = _rays(fine, scene.pitch)
    eye = np.array([0, CAMERA_HEIGHT, 0], np.float32)[:, None]
    count = way.shape[1]

    distance = np.full(count, np.inf, np.float32)
    label = np.full(count, CLASSES.index("sky"), np.uint8)
    solid_of = np.zeros(count, np.uint8)
    albedo = _sky_colour(scene, way)
    normal = np.zeros((3, count), np.float32)

    def take(t: np.ndarray) -> np.ndarray:
        """Indices of the rays that something at distance t is the first so far to stop."""
        closer = np.flatnonzero(t < distance)
        distance[closer] = t[closer]
        return closer

    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.where(way[1] < 0, -CAMERA_HEIGHT / way[1], np.inf)
    hit = take(down)
    spot = way[:, hit] * distance[hit]
    albedo[:, hit] = _ground_albedo(scene, spot[0], spot[2])
    normal[1, hit] = 1
    label[hit] = CLASSES.index(scene.ground)

    for level in (1, 0) if scene.relief == "hilly" else ():
        t = RIDGES[level] / way[2]
        y = CAMERA_HEIGHT + t * way[1]
        hit = take(np.where((y > 0) & (y < _ridge(scene, level, t * way[0])), t, np.inf))
        haze = (0.25, 0.5)[level]
        tone = (1 - haze) * np.array(scene.hill_colour, np.float32) + haze * 0.72
        albedo[:, hit] = tone[:, None] * (0.9 + 0.1 * np.clip(y[hit] / 4, 0, 1))
        normal[:, hit] = np.array([0, 0.6, -0.8], np.float32)[:, None]
        label[hit] = CLASSES.index("hill")

    for x, z, radius, height in scene.mounds:
        centre = np.array([x, 0, z], np.float32)[:, None]
        hit = take(_sphere(eye - centre, way, (radius, height, radius)))
        spot = eye + way[:, hit] * distance[hit]
        albedo[:, hit] = _ground_albedo(scene, spot[0], spot[2])
        slope = (spot - centre) / np.array([radius, height, radius], np.float32)[:, None] ** 2
        normal[:, hit] = slope / np.maximum(np.linalg.norm(slope, axis=0), 1e-6)
        label[hit] = CLASSES.index(scene.ground)

    for index, solid in enumerate(scene.solids):
        hit = take(_hit(solid, eye, way))
        spot = eye + way[:, hit] * distance[hit]
        albedo[:, hit] = _solid_albedo(solid, spot)
        normal[:, hit] = _normal(solid, spot)
        label[hit] = CLASSES.index(solid.shape)
        solid_of[hit] = index + 1

    colour = albedo.copy()
    lit = np.flatnonzero((label != CLASSES.index("sky")) & (label != CLASSES.index("hill")))
    colour[:, lit] *= _light(scene, eye + way[:, lit] * distance[lit], normal[:, lit])

    with np.errstate(divide="ignore"):
        inverse = np.clip(NEAR / (distance * way[2]), 0, 1).reshape(fine, fine)
    depth = FAR_DEPTH + (1 - FAR_DEPTH) * np.sqrt(inverse)  # the root spreads what is far, where most things are
    outline = _outline(label.reshape(fine, fine), solid_of.reshape(fine, fine), inverse)
    centre = slice(supersample // 2, None, supersample)  # labels cannot be averaged: take one ray's

    def picture(values: np.ndarray) -> np.ndarray:
        blocks = values.reshape(-1, size, supersample, size, supersample)
        return blocks.mean((2, 4)).transpose(1, 2, 0)

    return Rendering(
        image=(picture(np.clip(colour, 0, 1)) * 255 + 0.5).astype(np.uint8),
        depth=depth[centre, centre].astype(np.float32),
        segmentation=label.reshape(fine, fine)[centre, centre].copy(),
        instances=solid_of.reshape(fine, fine)[centre, centre].copy(),
        edges=_soft_edges(picture(albedo), picture(outline.reshape(1, -1))[..., 0]),
    )


def _light(scene: Scene, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Brightness of surface points: ambient plus Lambert's cosine where nothing stands before the sun."""
    sun = np.array(scene.sun, np.float32)[:, None]
    start = point + 0.02 * normal
    free = np.ones(point.shape[1], bool)
    for solid in scene.solids:
        free &= ~np.isfinite(_hit(solid, start, np.broadcast_to(sun, start.shape)))
    lambert = np.clip((normal * sun).sum(0), 0, 1)
    overhead = max(sun[1, 0], 0.3)  # flat sunlit ground keeps its own colour
    return 0.5 + 0.5 * np.minimum(lambert * free / overhead, 1.15)


def _outline(label: np.ndarray, solid_of: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """1.0 where a ray and its right or lower neighbour stop at different things, else 0."""
    edge = np.zeros(label.shape, np.float32)
    for axis in (0, 1):
        step = [np.diff(plane.astype(np.float32), axis=axis) for plane in (label, solid_of, inverse)]
        change = (step[0] != 0) | (step[1] != 0) | (np.abs(step[2]) > 0.047)
        target = edge[:-1, :] if axis == 0 else edge[:, :-1]
        target[change] = 1
    return edge


def _soft_edges(albedo: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Soft edges as a human would draw them: outlines, and marks of the unlit colour, slightly blurred."""
    smooth = cv2.GaussianBlur(albedo.astype(np.float32), (3, 3), 0.8)
    across, along = (cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=3, scale=0.25) for dx, dy in ((1, 0), (0, 1)))
    marks = np.clip(np.sqrt(across**2 + along**2).max(-1) * 2.2 - 0.12, 0, 1)
    drawn = cv2.GaussianBlur(np.clip(outline * 2.0, 0, 1), (3, 3), 0.7)
    return np.clip(np.maximum(marks, drawn), 0, 1).astype(np.float32)
