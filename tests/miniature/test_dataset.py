from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from transformers import CLIPTokenizer

import maxbench
from maxbench.errors import UserError
from maxbench.images import read_png
from maxbench.miniature import dataset, words, world
from maxbench.miniature.corpus import VALIDATION_SEED, WORLD_VERSION, scene_generator
from maxbench.miniature.dataset import miniature_images, write_dataset
from maxbench.miniature.render import render

WEIGHTS = Path(maxbench.__file__).parent / "suites" / "weights" / "miniature"


def test_the_data_set_is_cocos_own_format(data_dir):
    root = miniature_images(data_dir, "val", 24).root
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
        scene = world.sample_scene(scene_generator(VALIDATION_SEED, index), world.FRAMINGS[WORLD_VERSION])
        rendering = render(scene)
        picture = images.picture(index)
        assert np.array_equal(read_png(picture.path), rendering.image)
        union = np.zeros((64, 64), bool)
        for instance in picture.instances:
            union |= images.mask(instance)
        assert np.array_equal(union, rendering.instances > 0)


def test_every_object_is_called_what_it_looks_like(data_dir):
    images = miniature_images(data_dir, "val", 24)
    seen = set()
    for index in images.ids:
        scene = world.sample_scene(scene_generator(VALIDATION_SEED, index), world.FRAMINGS[WORLD_VERSION])
        rendering = render(scene)
        for instance in images.picture(index).instances:
            mask = images.mask(instance)
            (number,) = np.unique(rendering.instances[mask])
            solid = scene.solids[number - 1]
            pattern = [] if solid.pattern == "plain" else [solid.pattern]
            assert str(instance) == instance.phrase == " ".join(["a", *pattern, solid.colour, solid.shape])
            assert instance.category == solid.shape
            seen.add(solid.pattern)
    assert seen == set(world.PATTERNS)


def test_the_text_encoder_knows_every_word_of_every_phrase():
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    ends = "</w>"
    for shape in world.SHAPES:
        for colour in world.COLOURS:
            for pattern in world.PATTERNS:
                said = words.phrase(world.Solid(shape, colour, pattern, 0, 3, 0.5, 1, 0.2)) + ", and "
                assert all(token.endswith(ends) for token in tokenizer.tokenize(said)), said  # no word in pieces


def test_other_annotations_lie_in_another_folder(tmp_path, monkeypatch):
    before = miniature_images(tmp_path, "val", 2)
    monkeypatch.setattr(dataset, "ANNOTATIONS", dataset.ANNOTATIONS + 1)
    after = miniature_images(tmp_path, "val", 2)
    assert before.root != after.root and before.root.is_dir()
    assert miniature_images(tmp_path, "val", 2).root == after.root


def test_a_longer_data_set_begins_with_the_shorter_one(data_dir, tmp_path):
    write_dataset(tmp_path / "short", "val", 3)
    for name in sorted(path.name for path in (tmp_path / "short" / "val").iterdir()):
        first = (tmp_path / "short" / "val" / name).read_bytes()
        assert first == (miniature_images(data_dir, "val", 24).root / "val" / name).read_bytes()


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        miniature_images(tmp_path, "test", 3)
    with pytest.raises(UserError, match="at least 1"):
        miniature_images(tmp_path, "val", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data_dir="):
        miniature_images(tmp_path / "file", "val", 3)
