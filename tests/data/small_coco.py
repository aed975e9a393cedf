"""A COCO-format data set of three pictures, small enough to be written again for every damage."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 8, 6


def content() -> dict[str, dict]:
    """Both annotation files. Picture 1 has an object in each form, a crowd and one without an outline."""
    images = [{"id": n, "file_name": f"{n:012d}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)]
    captions = [{"id": 10 + n, "image_id": n, "caption": f"picture {n}\n"} for n in (1, 2, 3)]
    outlines = [
        [[0, 0, 4, 0, 4, 3, 0, 3]],
        {"size": [HEIGHT, WIDTH], "counts": [6, 12, 30]},
        {"size": [HEIGHT, WIDTH], "counts": "6<n0"},
    ]
    kinds = [{"segmentation": each} for each in outlines]
    kinds += [{"segmentation": outlines[1], "iscrowd": 1}, {}, {"segmentation": []}]
    instances = [{"id": 20 + n, "image_id": 1, "category_id": 7, "area": 12.0, **each} for n, each in enumerate(kinds)]
    return {
        "captions": {"images": images, "annotations": captions},
        "instances": {
            "images": [dict(each) for each in images],
            "annotations": instances,
            "categories": [{"id": 7, "name": "cow"}],
        },
    }


def write(root: Path, files: dict[str, dict] | None = None) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    for kind, said in (files or content()).items():
        (root / "annotations" / f"{kind}_val.json").write_text(json.dumps(said))
    for number in (1, 2, 3):
        picture = np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)
        Image.fromarray(picture).save(root / "val" / f"{number:012d}.png")
    return root
