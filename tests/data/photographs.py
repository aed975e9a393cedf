"""Real photographs in COCO's own layout: those that lie inside scikit-image's wheel, whole and in parts.

Captions and outlines are made by hand for tests. Outlines are rough: whole pictures have polygons, parts of pictures
run lengths, every second of them compressed. Nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from pycocotools import mask as rle

SPLIT = "val2017"
ROOM = 1000  # pixels around a part, in which outlines are drawn whole
SUPERCATEGORIES = {
    "person": "person", "motorcycle": "vehicle", "bench": "outdoor", "cat": "animal", "cup": "kitchen",
    "spoon": "kitchen", "dining table": "furniture",
}  # fmt: skip
CATEGORIES = {"person": 1, "motorcycle": 4, "bench": 15, "cat": 17, "cup": 47, "spoon": 50, "dining table": 67}
"""COCO's own names and numbers, of those that are seen."""

OUTLINES = {  # file -> category and its polygon, x and y in turn
    "astronaut.png": [
        ("person", (155, 40, 175, 18, 225, 14, 270, 30, 300, 60, 298, 100, 280, 130, 255, 145, 262, 160, 295, 190,
                    305, 235, 345, 255, 360, 290, 360, 340, 330, 360, 300, 385, 285, 430, 282, 512, 25, 512, 30, 440,
                    20, 420, 45, 290, 70, 240, 120, 215, 110, 175, 130, 155, 180, 150, 160, 120, 153, 80)),
    ],
    "camera.png": [
        ("person", (165, 90, 185, 68, 225, 65, 265, 85, 270, 105, 260, 125, 270, 150, 305, 135, 325, 150, 325, 175,
                    300, 215, 290, 250, 260, 270, 215, 290, 180, 345, 150, 390, 160, 440, 155, 512, 10, 512, 5, 400,
                    5, 290, 35, 215, 60, 160, 110, 125, 155, 105)),
    ],
    "chelsea.png": [
        ("cat", (60, 0, 340, 0, 355, 12, 385, 0, 386, 20, 365, 60, 352, 100, 340, 150, 325, 210, 295, 262, 270, 285,
                 220, 285, 150, 280, 90, 300, 0, 300, 0, 240, 40, 235, 45, 190, 60, 130, 42, 60, 60, 10)),
    ],
    "coffee.png": [
        ("cup", (172, 90, 190, 45, 235, 22, 290, 18, 345, 28, 390, 60, 408, 110, 395, 165, 385, 215, 350, 265, 300, 285,
                 255, 270, 235, 305, 205, 300, 200, 280, 225, 235, 195, 210, 180, 170, 172, 125)),
        ("spoon", (395, 105, 418, 64, 426, 75, 412, 110, 390, 200, 400, 240, 402, 290, 380, 320, 345, 325, 325, 300,
                   330, 260, 360, 240, 380, 200)),
        ("dining table", (90, 0, 600, 0, 600, 400, 0, 400, 0, 60)),
    ],
    "motorcycle_left.png": [
        ("motorcycle", (90, 205, 140, 185, 150, 150, 165, 160, 230, 175, 300, 180, 340, 155, 340, 130, 335, 115, 380,
                        110, 440, 130, 490, 90, 515, 85, 545, 105, 580, 125, 555, 180, 545, 185, 560, 255, 605, 270,
                        645, 300, 680, 360, 685, 410, 660, 445, 610, 440, 560, 400, 530, 350, 520, 300, 480, 340, 430,
                        370, 350, 380, 340, 435, 325, 435, 325, 380, 260, 375, 220, 400, 160, 390, 125, 340, 125, 270,
                        150, 240, 100, 240)),
        ("bench", (45, 110, 275, 105, 282, 150, 150, 155, 140, 185, 95, 200, 95, 290, 60, 300, 45, 240)),
    ],
    "motorcycle_right.png": [
        ("motorcycle", (45, 205, 95, 185, 103, 150, 120, 160, 180, 175, 250, 180, 288, 155, 275, 130, 275, 115, 325,
                        110, 385, 130, 432, 90, 455, 85, 485, 105, 530, 125, 497, 180, 487, 185, 500, 255, 545, 270,
                        585, 300, 618, 360, 628, 410, 603, 445, 550, 440, 502, 400, 472, 350, 462, 300, 422, 340,
                        372, 370, 300, 380, 290, 435, 278, 435, 275, 380, 213, 375, 173, 400, 113, 390, 78, 340, 78,
                        270, 100, 240, 52, 240)),
    ],
}  # fmt: skip

PICTURES = [  # COCO-like id, file, part (left, top, right, bottom) or None for all of it, captions
    (285, "astronaut.png", None, ["A woman in an orange space suit holding a helmet.",
                                  "An astronaut smiles in front of a flag and a model of a space shuttle."]),
    (632, "camera.png", None, ["A man in a black coat looking through a camera on a tripod.",
                               "Man filming on a lawn with towers far behind him.", "A cameraman at work."]),
    (724, "chelsea.png", None, ["A close up of a cat with green eyes.", "The face of a tabby cat looking aside."]),
    (776, "coffee.png", None, ["A cup of espresso on a red saucer with a spoon.",
                               "A red coffee cup on a wooden table.", "Coffee with a silver spoon."]),
    (802, "motorcycle_left.png", None, ["A red motorcycle parked in a garage.",
                                        "A motorcycle stands in front of shelves full of boxes."]),
    (885, "motorcycle_right.png", (180, 0, 741, 500), ["A red motorcycle next to shelves.", "A bike in a workshop."]),
    (1000, "rocket.jpg", None, ["A rocket on its launch pad at dusk.", "Lights and steel towers around a rocket."]),
    (1268, "brick.png", None, ["A pavement of long bricks.", "A street made of rows of bricks."]),
    (1296, "coins.png", None, ["Rows of old coins on a dark cloth.", "Several Greek coins lying side by side."]),
    (1353, "grass.png", None, ["A meadow seen from above.", "Grass with a few fallen leaves."]),
    (1425, "astronaut.png", (200, 0, 512, 420), ["A portrait of a smiling woman in a space suit.",
                                                "A woman with short hair wearing an orange suit."]),
    (1490, "camera.png", (110, 30, 512, 370), ["A man bending over a film camera.", "A man with a camera outdoors."]),
    (1503, "coffee.png", (210, 0, 600, 360), ["A coffee cup at the edge of a table.", "A full cup of coffee."]),
    (1532, "motorcycle_left.png", (505, 20, 741, 500), ["The front wheel of a red motorcycle.",
                                                        "Half of a motorcycle near some cardboard boxes."]),
    (1584, "chelsea.png", (266, 0, 451, 300), ["Half of the face of a brown cat.", "A cat with one ear in view."]),
    (1675, "rocket.jpg", (190, 60, 480, 427), ["A tall rocket against a dark blue sky.", "A rocket before launch."]),
    (1761, "motorcycle_left.png", (0, 60, 320, 330), ["A wooden bench behind a motorcycle.", "An old bench."]),
    (1818, "motorcycle_right.png", (0, 110, 300, 480), ["The rear wheel of a motorcycle.", "A seat and a wheel."]),
]  # fmt: skip


def write_photographs(root: str | Path) -> Path:
    """Write the data set into a folder and return it: `annotations/{instances,captions}_val2017.json`, `val2017/*.jpg`.

    18 pictures from 185 to 741 pixels a side, landscape, portrait and square, five of them greyscale. 13 have objects,
    in 9 of them one covers 10% to 40% of the centre square.
    """
    root = Path(root)
    (root / SPLIT).mkdir(parents=True)
    (root / "annotations").mkdir()
    source = Path(skimage.__file__).parent / "data"
    images, captions, instances = [], [], []
    for number, file, part, said in PICTURES:
        with Image.open(source / file) as opened:
            picture = opened.crop(part) if part else opened.copy()
        width, height = picture.size
        name = f"{number:012d}.jpg"
        picture.save(root / SPLIT / name, quality=92)
        images.append({"id": number, "file_name": name, "width": width, "height": height, "license": 1})
        captions += [{"image_id": number, "caption": caption} for caption in said]
        for category, polygon in OUTLINES.get(file, ()):
            outline = _outline(polygon, part, picture.size, len(instances))
            if outline is not None:
                instances.append({"image_id": number, "category_id": CATEGORIES[category], "iscrowd": 0, **outline})
    categories = [{"id": CATEGORIES[each], "name": each, "supercategory": SUPERCATEGORIES[each]} for each in CATEGORIES]
    for kind, listed, more in (("captions", captions, {}), ("instances", instances, {"categories": categories})):
        numbered = [{"id": place, **each} for place, each in enumerate(listed, start=1)]
        content = {"info": {"description": "photographs of scikit-image"}, "images": images, "annotations": numbered}
        (root / "annotations" / f"{kind}_{SPLIT}.json").write_text(json.dumps({**content, **more}))
    return root


def _outline(polygon: tuple[int, ...], part: tuple | None, size: tuple[int, int], place: int) -> dict | None:
    """The segmentation of an object with its area and box; None if nothing of it is in the part."""
    width, height = size
    left, top = part[:2] if part else (0, 0)
    points = [float(value - (left, top)[axis % 2]) for axis, value in enumerate(polygon)]
    drawn = [value + ROOM for value in points]  # also where it is left of the part or above it
    around = rle.decode(rle.merge(rle.frPyObjects([drawn], height + 2 * ROOM, width + 2 * ROOM)))
    mask = np.asfortranarray(around[ROOM : ROOM + height, ROOM : ROOM + width])
    if not mask.any():
        return None
    encoded = rle.encode(mask)
    box = [float(value) for value in rle.toBbox(encoded)]
    if part is None:
        segmentation = [points]
    elif place % 2:
        segmentation = {"size": [height, width], "counts": encoded["counts"].decode()}
    else:
        flat = mask.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *ends, flat.size]).tolist()
        segmentation = {"size": [height, width], "counts": runs if flat[0] == 0 else [0, *runs]}
    return {"segmentation": segmentation, "area": float(mask.sum()), "bbox": box}
