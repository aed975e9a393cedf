"""Control inputs: maps are drawn in batches, once, and found again; what is held does not grow with their number."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maxbench import images as im
from maxbench.conditions.depth import Depth
from maxbench.data.coco import Picture
from maxbench.data.pairing import Sample
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.inputs import Annotators, ControlInputs
from maxbench.generation.networks import Networks
from maxbench.store.artefacts import Store
from maxbench.store.runfolder import RunFolder

SIDE, BATCH = 96, 8


class Folder:
    """An image set of files."""

    name = "made"

    def __init__(self, folder: Path):
        self.folder = folder
        self.ids = sorted(int(path.stem) for path in folder.glob("*.png"))

    def picture(self, image):
        return Picture(image, self.folder / f"{image}.png", (f"picture {image}",), ())


class Watched:
    """A stand-in for a network, that notes the shapes it is given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(tuple(images.shape))
        return images.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def image_set(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for image in range(65):
        coarse = generator.integers(256, size=(4, 4, 3), dtype=np.uint8)
        (folder / f"{image}.png").write_bytes(im.encode_png(cv2.resize(coarse, (SIDE, SIDE))))
    return Folder(folder)


def inputs(image_set, place, count, network):
    """Of the first `count` pictures, not made yet; every picture gives two samples their depth."""
    samples = [Sample(f"s{number:03d}", "", {"depth": number // 2}) for number in range(2 * count)]
    folder = RunFolder.open(place, "run", {"a": "run"}, Store.open(place / "store"))
    conditions, annotators = {"depth": Depth()}, Annotators(identity=lambda name: [name], device="cpu")
    executor = LocalExecutor(Networks(conditions, load_annotator=lambda name: network))
    return ControlInputs(conditions, samples, folder, image_set, SIDE, BATCH, annotators, executor)


def test_maps_are_drawn_in_batches_of_one_shape_once_and_found_again(image_set, tmp_path):
    network = Watched()
    first = inputs(image_set, tmp_path, 65, network)
    first.make()
    assert network.shapes == [(BATCH, 3, SIDE, SIDE)] * 9  # 65 pictures, the last batch is filled up
    assert first.folder.count("map").as_dict() == {"made": 65, "found": 0}
    again = inputs(image_set, tmp_path, 65, network)
    again.make()
    assert len(network.shapes) == 9
    assert again.folder.count("map").as_dict() == {"made": 0, "found": 65}
    assert again.maps == first.maps
    for number in (0, 63, 64):
        expected = Depth().draw(im.read_images([image_set.picture(number).path], SIDE), Watched())
        assert torch.equal(again.condition_maps("depth", [again.samples[2 * number]]), expected)


def test_more_pictures_draw_only_the_new_maps(image_set, tmp_path):
    network = Watched()
    inputs(image_set, tmp_path, 9, network).make()
    drawn = len(network.shapes)
    more = inputs(image_set, tmp_path, 20, network)
    more.make()
    assert more.folder.count("map").as_dict() == {"made": 11, "found": 9}
    assert len(network.shapes) == drawn + 2


def test_memory_does_not_grow_with_the_maps(image_set, tmp_path):
    def peak(count):
        own = inputs(image_set, tmp_path / str(count), count, Watched())
        tracemalloc.start()
        try:
            own.make()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is cached once
    small, large = peak(16), peak(64)
    held = 48 * SIDE * SIDE  # bytes of the maps that 64 pictures have more than 16; the pictures have three times that
    assert large - small < held / 2
