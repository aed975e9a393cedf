import numpy as np
import pytest
from pycocotools.coco import COCO

from maxbench.errors import UserError
from maxbench.images import read_png
from maxbench.miniature import world
from maxbench.miniature.corpus import VALIDATION_SEED, WORLD_VERSION, scene_generator
from maxbench.miniature.dataset import miniature_images, write_dataset
from maxbench.miniature.render import render


def test_the_data_set_is_cocos_own_format(data_dir):
    root = data_dir / f"miniature-{WORLD_VERSION}-val-24"
    instances = COCO(str(root / "annotations" / "instances_val.json"))
    captions = COCO(str(root / "annotations" / "captions_val.json"))
    assert len(instances.imgs) == len(captions.imgs) == 24
    assert {category["name"] for category in instances.cats.values()} == set(world.SHAPES)
    for annotation in instances.anns.values():
        mask = instances.annToMask(annotation)
        assert mask.shape == (64, 64) and mask.sum() == annotation["area"]
    assert all(len(captions.imgToAnns[image]) == 3 for image in captions.imgs)


def test_pictures_and_masks_are_the_renderings(data_dir):
    images = miniature_images(data_dir, "val", 24)
    for index in (0, 7, 23):
        scene = world.sample_scene(scene_generator(VALIDATION_SEED, index))
        rendering = render(scene)
        picture = images.picture(index)
        assert np.array_equal(read_png(picture.path), rendering.image)
        union = np.zeros((64, 64), bool)
        for instance in picture.instances:
            union |= images.mask(instance)
        assert np.array_equal(union, rendering.instances > 0)


def test_a_longer_data_set_begins_with_the_shorter_one(data_dir, tmp_path):
    write_dataset(tmp_path / "short", "val", 3)
    for name in sorted(path.name for path in (tmp_path / "short" / "val").iterdir()):
        first = (tmp_path / "short" / "val" / name).read_bytes()
        assert first == (data_dir / f"miniature-{WORLD_VERSION}-val-24" / "val" / name).read_bytes()


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        miniature_images(tmp_path, "test", 3)
    with pytest.raises(UserError, match="at least 1"):
        miniature_images(tmp_path, "val", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data_dir="):
        miniature_images(tmp_path / "file", "val", 3)
