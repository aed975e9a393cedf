import numpy as np
import pytest
from photographs import PICTURES, SPLIT, write_photographs
from pycocotools import mask as library

from maxbench.data.coco import CocoImages
from maxbench.data.regions import Object


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return CocoImages(write_photographs(tmp_path_factory.mktemp("photographs") / "coco"), SPLIT)


def test_they_are_read_as_coco_is(photographs):
    assert photographs.ids == [number for number, *_ in PICTURES]
    for image in photographs.ids:
        picture = photographs.picture(image)
        assert len(picture.captions) >= 2
        for instance in picture.instances:
            outline, (height, width) = instance.annotation["segmentation"], photographs.size(image)
            drawn = photographs.mask(instance)
            assert drawn.sum() == instance.area
            if isinstance(outline, list):
                theirs = library.merge(library.frPyObjects(outline, height, width))
            elif isinstance(outline["counts"], str):
                theirs = {**outline, "counts": outline["counts"].encode()}
            else:
                theirs = library.frPyObjects(outline, height, width)
            assert np.array_equal(drawn, library.decode(theirs))
    counts = [
        each.annotation["segmentation"]["counts"]
        for image in photographs.ids
        for each in photographs.picture(image).instances
        if isinstance(each.annotation["segmentation"], dict)
    ]
    assert {type(each) for each in counts} == {str, list}


def test_half_of_them_have_an_object_to_be_drawn(photographs):
    usable = [
        image
        for image in photographs.ids
        if any(
            0.1 <= Object(image, number).mask(photographs, 64).mean() <= 0.4
            for number in range(len(photographs.picture(image).instances))
        )
    ]
    assert 2 * len(usable) >= len(photographs)
