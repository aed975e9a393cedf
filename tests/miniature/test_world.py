from dataclasses import replace

import numpy as np
import pytest

from maxbench.errors import UserError
from maxbench.miniature import words, world
from maxbench.miniature.corpus import TRAIN_SEED, VALIDATION_SEED, WORLD_VERSION, render_corpus, scene_generator
from maxbench.miniature.render import render

every_version = pytest.mark.parametrize("version", world.FRAMINGS)


def scenes(count, seed=5, version=WORLD_VERSION):
    return [world.sample_scene(scene_generator(seed, index), world.FRAMINGS[version]) for index in range(count)]


def test_a_scene_is_always_rendered_to_the_same_bytes():
    for scene, again in zip(scenes(6), scenes(6), strict=True):
        assert scene == again
        one, two = render(scene), render(again)
        assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in vars(one))


@every_version
def test_a_rendering_keeps_its_promises(version):
    for scene in scenes(40, version=version):
        rendering = render(scene)
        assert rendering.image.shape == (64, 64, 3) and rendering.image.dtype == np.uint8
        assert rendering.depth.min() >= world.FAR_DEPTH - 1e-6 and rendering.depth.max() <= 1
        assert rendering.edges.min() >= 0 and rendering.edges.max() <= 1
        assert rendering.segmentation.min() > 0  # no pixel says nothing
        assert rendering.segmentation.max() < len(world.CLASSES)
        solid = rendering.instances > 0
        assert np.array_equal(solid, rendering.segmentation >= world.CLASSES.index("sphere"))
        sky = rendering.segmentation == world.CLASSES.index("sky")
        assert np.all(rendering.depth[sky] == np.float32(world.FAR_DEPTH))


@every_version
def test_every_word_of_the_world_occurs(version):
    drawn = scenes(300, version=version)
    assert {scene.sky for scene in drawn} == set(world.SKIES)
    assert {scene.ground for scene in drawn} == set(world.GROUNDS)
    assert {scene.relief for scene in drawn} == set(world.RELIEFS)
    solids = [solid for scene in drawn for solid in scene.solids]
    assert {solid.shape for solid in solids} == set(world.SHAPES)
    assert {solid.colour for solid in solids} == set(world.COLOURS)
    assert {solid.pattern for solid in solids} == set(world.PATTERNS)


def one_solid(**changes):
    solid = world.Solid("cylinder", "red", "plain", 0.0, 4.0, 0.7, 1.2, 0.5)
    return replace(
        scenes(1)[0], relief="flat", mounds=(), pitch=0.1, ground="sand", solids=(replace(solid, **changes),)
    )


def test_pattern_shows_in_edges_and_not_in_depth():
    plain, striped = (render(one_solid(pattern=pattern)) for pattern in ("plain", "striped"))
    assert np.array_equal(plain.depth, striped.depth)
    inside = plain.instances == 1
    assert striped.edges[inside].sum() > 1.3 * plain.edges[inside].sum()


def test_a_category_shows_in_the_segmentation_and_not_in_depth():
    sand, grass = (render(replace(one_solid(), ground=ground)) for ground in ("sand", "grass"))
    assert np.array_equal(sand.depth, grass.depth)
    assert np.mean(sand.segmentation != grass.segmentation) > 0.2


def test_a_mound_shows_in_depth_and_not_in_the_segmentation():
    flat = render(replace(one_solid(), solids=()))
    mound = render(replace(one_solid(), solids=(), mounds=((0.0, 5.0, 2.0, 0.6),)))
    assert np.abs(flat.depth - mound.depth).max() > 0.05
    assert np.mean(flat.segmentation != mound.segmentation) < 0.05


def test_a_nearer_solid_hides_a_farther_one_and_casts_a_shadow():
    scene = one_solid()
    near = replace(scene.solids[0], colour="blue", z=3.0, size=0.8)
    both = render(replace(scene, solids=(*scene.solids, near)))
    assert both.instances[40, 32] == 2  # drawn last, and first in the list of neither
    low_sun = replace(scene, sun=(-0.8, 0.5, -0.33))
    lit = render(low_sun).image.astype(int)
    bare = render(replace(low_sun, solids=())).image.astype(int)
    outside = render(low_sun).instances == 0
    assert ((bare - lit).sum(-1)[outside] > 60).sum() > 20


@every_version
def test_solids_stand_as_their_framing_says(version):
    framing = world.FRAMINGS[version]
    for scene in scenes(100, version=version):
        assert 1 <= len(scene.solids) <= len(framing.counts)
        for solid in scene.solids:
            assert framing.near <= solid.z <= framing.far and abs(solid.x) <= framing.aside * solid.z / world.FOCAL
            assert 0.8 * framing.sizes[0] <= solid.size <= framing.sizes[1]


def test_solids_of_the_next_version_are_large_enough_to_be_told():
    largest = {
        version: [np.bincount(render(scene).instances.ravel(), minlength=2)[1:].max() for scene in drawn]
        for version, drawn in ((version, scenes(60, version=version)) for version in (2, 3))
    }
    assert np.median(largest[3]) > 1.7 * np.median(largest[2])


def test_a_version_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no version 9 of the world; there are 2, 3"):
        render_corpus(2, 0, 64, tmp_path, version=9)


@every_version
def test_captions_name_what_can_be_seen(version):
    rng = np.random.default_rng(0)
    for scene in scenes(60, version=version):
        seen = world.visible(scene, render(scene).instances)
        said = words.caption(seen, rng)
        for solid in seen.solids:
            assert solid.shape.removesuffix("x") in said and solid.colour in said
        hidden = {solid.shape for solid in scene.solids} - {solid.shape for solid in seen.solids}
        assert not any(shape in said for shape in hidden)
    hiding = one_solid()
    behind = replace(hiding.solids[0], shape="sphere", z=6.0, size=0.42)
    scene = replace(hiding, solids=(*hiding.solids, behind))
    assert "sphere" not in words.caption(world.visible(scene, render(scene).instances), rng)


def test_captions_count_what_looks_alike_and_vary():
    rng = np.random.default_rng(0)
    one = one_solid().solids[0]
    pair = replace(one_solid(), solids=(replace(one, x=-1.2), replace(one, x=1.2)))
    assert "two red cylinders" in words.caption(pair, rng)
    mixed = replace(pair, solids=(*pair.solids, replace(one, shape="box", x=0.1)))
    said = words.caption(mixed, rng)
    assert "two red cylinders" in said and "a red box" in said
    assert len({words.caption(mixed, rng) for _ in range(60)}) > 20
    same_side = replace(pair, solids=(replace(one, x=-1.2), replace(one, x=-1.6)))
    wordings = [words.caption(same_side, rng) for _ in range(40)]
    assert any("two red cylinders on the left" in each for each in wordings)
    assert not any("cylinder on the left" in words.caption(pair, rng) for _ in range(40))  # they stand apart


def test_training_and_validation_scenes_are_different():
    assert TRAIN_SEED != VALIDATION_SEED
    assert set(scenes(200, TRAIN_SEED)).isdisjoint(scenes(200, VALIDATION_SEED))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a picture of a striped red sphere on grass", "sphere"), ("on sand, a blue box before hills", "box"),
        ("two red cones on water", None), ("a cone and a box on tiles", None), ("an empty scene at sunset", None),
        ("a white cone on the left and a blue cone in the middle", None), ("a cylinder", "cylinder"),
    ],
)  # fmt: skip
def test_the_kind_of_a_lone_solid_is_read_from_its_prompt(text, kind):
    assert words.lone_kind(text) == kind
