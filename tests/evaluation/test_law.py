"""The law of the ruler: the picture that a map was drawn from, measured by the annotator that drew it, is perfect.

For every condition, ruler and kind of region, through the same path on which a run's pictures are scored.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from maxbench.conditions.canny import Canny
from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.conditions.ruler import MeanIoU, PixelAccuracy
from maxbench.conditions.seg import Segmentation
from maxbench.conditions.style import Style
from maxbench.configuration.compose import CONF
from maxbench.data.regions import Object
from maxbench.evaluation.scoring import Measuring, Scorers, Subject, Target
from maxbench.evaluation.state import fidelity_label
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.networks import Networks
from maxbench.images import from_bytes, read_images, to_bytes
from maxbench.metrics.fidelity import soft_edge_ssim
from maxbench.miniature.dataset import miniature_images
from maxbench.miniature.world import CLASSES, PALETTE
from maxbench.store.scores import Scores

SIDE = 64
SEG = Segmentation(PALETTE.tolist(), CLASSES)
CONDITIONS = {each.name: each for each in (Depth(), HED(), Canny(), SEG, Style())}
EXACTLY = {"hed_ssim": 1e-6, "hed_ms_ssim": 1e-6, "style_clip_i": 1e-4}  # of what is computed in float32


# --- stand-ins for networks: functions of a picture, each other places and other numbers -----------------------------


def grey(images):
    return images.mean(1, keepdim=True)


def depth(images):
    return grey(images)


def edges(images):
    across = F.pad((grey(images)[..., 1:] - grey(images)[..., :-1]).abs(), (0, 1))
    down = F.pad((grey(images)[..., 1:, :] - grey(images)[..., :-1, :]).abs(), (0, 0, 0, 1))
    return (2 * F.avg_pool2d(across + down, 3, 1, 1)).clamp(0, 1)


def labels(images):
    """Logits of the class whose number is the tenths of the picture's red, and never of "nothing"."""
    tenths = torch.arange(len(CLASSES)).view(1, -1, 1, 1) / 10
    return -(images[:, :1] - torch.where(tenths > 0, tenths, 10)).abs()


def embedding(images):
    return F.adaptive_avg_pool2d(images, 4).flatten(1)


NETWORKS = {"depth": depth, "hed": edges, "seg": labels, "canny": None, "style": embedding}


def blurred(network):
    """Another network than the one that drew the maps."""
    return None if network is None else lambda images: network(F.avg_pool2d(images, 5, 1, 2))


def pictures(count=3, seed=0):
    """(count, 3, 64, 64), of whole bytes: coloured blocks, with black lines so that every region has a black pixel."""
    blocks = torch.from_numpy(np.random.default_rng(seed).random((count, 3, 8, 8))).float()
    images = F.interpolate(blocks, SIDE, mode="nearest")
    images[..., ::8, :] = 0
    return from_bytes(to_bytes(images))


def disc(row, column, radius):
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


OBJECTS = [disc(24 + 4 * place, 36 - 4 * place, 11 + place) for place in range(3)]
REGIONS = {
    "whole picture": None,
    "left half": [torch.arange(SIDE).lt(SIDE // 2).expand(SIDE, SIDE)] * 3,
    "object": OBJECTS,
    "outside an object": [~each for each in OBJECTS],
    "window": [disc(24 + 4 * place, 36 - 4 * place, 19 + place) for place in range(3)],
}
SPOKEN = [(condition, region) for condition in CONDITIONS for region in REGIONS if CONDITIONS[condition].is_spatial]
SPOKEN.append(("style", "whole picture"))


def measuring(folder, networks, annotators=None, batch_size=2):
    """Scorers of these networks alone, in batches that the pictures do not fill."""
    scorers = Scorers(features=(), identity=lambda kind, name: [kind, name], device="cpu")
    conditions = {name: CONDITIONS[name] for name in networks}
    executor = LocalExecutor(
        Networks(conditions, load_scorer=networks.get, load_self_consistency=(annotators or {}).get)
    )
    return Measuring(conditions, scorers, frozenset(annotators or ()), Scores(folder), batch_size, executor)


def scored(measuring, images, targets):
    """Label -> (N,) scores of pictures against one target each."""
    reads = [each if callable(each) else lambda each=each: each[None] for each in images]
    subjects = [
        Subject(f"{place:064d}", read, target) for place, (read, target) in enumerate(zip(reads, targets, strict=True))
    ]
    found = measuring.measure(subjects, "scoring")
    rulers = {
        fidelity_label(name, ruler.metric, by): ruler
        for name, target in targets[0].items() for ruler in target.rulers for by in (False, True)
    }  # fmt: skip
    return {label: rulers[label].score(np.stack([each[label] for each in found])) for label in found[0]}


def targets_of(name, maps, evaluation, control, rulers=None):
    """What pictures are held against: their maps, which are no control outside `control`, as a run gives them."""
    condition = CONDITIONS[name]
    if control is not None:
        maps = [each.masked_fill(~mask, condition.null_value) for each, mask in zip(maps, control, strict=True)]
    return [
        {name: Target(
            lambda each=each: each, None if evaluation is None else lambda place=place: evaluation[place],
            rulers or condition.rulers, [name, place],
        )}
        for place, each in enumerate(maps)
    ]  # fmt: skip


def lawful(rulers):
    """Those that promise the law; ControlNet++'s own definition of depth breaks it."""
    kept = [ruler for ruler in rulers if ruler.best is not None]
    assert {ruler.metric for ruler in rulers} - {ruler.metric for ruler in kept} <= {"depth_rmse_controlnetpp"}
    return kept


def assert_perfect(name, scores, rulers, by=False):
    for ruler in lawful(rulers):
        found = scores[fidelity_label(name, ruler.metric, by)]
        np.testing.assert_allclose(found, ruler.best, atol=EXACTLY.get(ruler.metric, 0), err_msg=ruler.metric)


# --- the law -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["where it is scored", "everywhere"])
@pytest.mark.parametrize(("name", "region"), SPOKEN)
def test_the_picture_of_a_map_is_perfect(name, region, shown, tmp_path):
    images, masks = pictures(), REGIONS[region]
    maps = list(CONDITIONS[name].draw(images, None if name == "style" else NETWORKS[name]))
    targets = targets_of(name, maps, masks, masks if shown == "where it is scored" else None)
    scores = scored(measuring(tmp_path, {name: NETWORKS[name]}), images, targets)
    assert len(scores) == len(CONDITIONS[name].rulers)
    assert_perfect(name, scores, CONDITIONS[name].rulers)


@pytest.mark.parametrize(("name", "region"), SPOKEN)
def test_another_picture_is_not_perfect(name, region, tmp_path):
    images, masks = pictures(), REGIONS[region]
    maps = list(CONDITIONS[name].draw(pictures(seed=1), None if name == "style" else NETWORKS[name]))
    scores = scored(measuring(tmp_path, {name: NETWORKS[name]}), images, targets_of(name, maps, masks, masks))
    for ruler in lawful(CONDITIONS[name].rulers):
        found = ruler.oriented(scores[fidelity_label(name, ruler.metric)])
        assert (found < ruler.oriented(np.array(ruler.best)) - 1e-3).all(), ruler.metric


@pytest.mark.parametrize("region", REGIONS)
def test_the_annotator_is_perfect_where_the_scorer_is_another_network(region, tmp_path):
    images, masks, names = pictures(), REGIONS[region], ("depth", "hed", "seg")
    each = [
        targets_of(name, list(CONDITIONS[name].draw(images, NETWORKS[name])), masks, masks) for name in names
    ]  # fmt: skip
    targets = [{name: own[name] for own in parts for name in own} for parts in zip(*each, strict=True)]
    own, others = ({name: change(NETWORKS[name]) for name in names} for change in (lambda network: network, blurred))
    scores = scored(measuring(tmp_path, others, own), images, targets)
    for name in names:
        assert_perfect(name, scores, CONDITIONS[name].rulers[:1], by=True)  # the annotator measures the headline alone
        ruler = CONDITIONS[name].rulers[0]
        assert (ruler.oriented(scores[fidelity_label(name, ruler.metric)]) < ruler.oriented(ruler.best)).all()


def test_what_is_measured_outside_does_not_count_and_a_window_of_it_would(tmp_path):
    """A soft edge next to the region is in reach of SSIM's window: both maps must be blank there."""
    images, masks = pictures(), REGIONS["left half"]
    maps = HED().draw(images, edges)
    blank = maps.masked_fill(~masks[0], 0)
    changed = images.clone()
    changed[..., SIDE // 2 + 3 :] = torch.rand(3, 3, SIDE, SIDE // 2 - 3, generator=torch.Generator().manual_seed(0))
    scores = scored(measuring(tmp_path, {"hed": edges}), changed, targets_of("hed", list(maps), masks, masks))
    assert_perfect("hed", scores, HED().rulers)
    as_it_was = soft_edge_ssim(
        blank[:, None] / 255, HED().draw(changed, edges)[:, None] / 255, torch.stack(masks)[:, None]
    )
    assert (as_it_was < 0.999).all()  # a blanked map against one that is not


def test_scores_are_found_again_and_tell_the_batch_nothing(tmp_path):
    images, masks = pictures(), REGIONS["object"]
    maps = list(HED().draw(pictures(seed=1), edges))
    first, again, whole = (
        measuring(path, {"hed": edges}, batch_size=size)
        for path, size in ((tmp_path / "a", 2), (tmp_path / "a", 2), (tmp_path / "b", 3))
    )
    targets = targets_of("hed", maps, masks, masks)
    one, two, three = (scored(each, images, targets) for each in (first, again, whole))
    assert (first.count.made, first.count.found) == (9, 0)
    assert (again.count.made, again.count.found) == (0, 9)
    for label in one:
        np.testing.assert_array_equal(one[label], two[label])
        np.testing.assert_allclose(one[label], three[label], rtol=1e-12)


# --- an object by its own class ------------------------------------------------------------------------------


def painted(labels_of_places):
    """A picture in which the stand-in sees these classes."""
    return (labels_of_places.float() / 10).expand(3, SIDE, SIDE).clone()


def object_score(folder, seen, outline, window, category):
    target = Target(
        lambda: SEG.object_map(outline, category), lambda: window, SEG.object_rulers, ["object", category]
    )  # fmt: skip
    found = scored(measuring(folder, {"seg": labels}), [painted(seen)], [{"seg": target}])
    return found[fidelity_label("seg", "seg_object_iou")][0]


def test_an_object_is_scored_by_its_own_class_in_its_window(tmp_path):
    outline, window = torch.zeros(SIDE, SIDE, dtype=torch.bool), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    outline[20:40, 20:40] = True  # 400 pixels
    window[12:48, 12:48] = True
    cone, sky = CLASSES.index("cone"), CLASSES.index("sky")
    exact = torch.full((SIDE, SIDE), sky).masked_fill(outline, cone)

    def score(folder, seen):
        return object_score(tmp_path / folder, seen, outline, window, "cone")

    assert score("exact", exact) == 100
    lost = exact.clone()
    lost[20:26, 20:40] = sky  # 120 of 400 pixels are of another class
    assert score("lost", lost) == pytest.approx(100 * 280 / 400)
    other = exact.clone()
    other[20:26, 20:40] = CLASSES.index("box")  # of another solid: the same loss
    assert score("other", other) == score("lost", lost)
    spilt = exact.clone()
    spilt[40:44, 20:40] = cone  # 80 pixels beside the object, inside the window
    assert score("spilt", spilt) == pytest.approx(100 * 400 / 480)
    far = exact.clone()
    far[48:, :] = cone
    far[:, :12] = cone
    assert score("far", far) == 100
    assert score("none", torch.full((SIDE, SIDE), sky)) == 0
    assert score("box", exact.masked_fill(outline, CLASSES.index("box"))) == 0  # well drawn, and the wrong thing


def test_the_truth_is_the_data_set_s_and_not_what_an_annotator_saw(tmp_path):
    """An annotator that takes the object for another class is no excuse."""
    outline = disc(32, 32, 12)
    seen = torch.full((SIDE, SIDE), 1).masked_fill(outline, CLASSES.index("box"))
    assert object_score(tmp_path / "a", seen, outline, disc(32, 32, 20), "box") == 100
    assert object_score(tmp_path / "b", seen, outline, disc(32, 32, 20), "cylinder") == 0


# --- the miniature's own networks ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite():
    extra = [f"+condition@conditions.{name}={name}" for name in ("seg", "canny")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("main", ["experiment=hed_depth", *extra]).suite, _convert_="all")


@pytest.fixture(scope="module")
def scenes(data_dir):
    """Four rendered pictures, and an object in each."""
    images = miniature_images(data_dir, "val", 24)
    found = [image for image in images.ids if images.picture(image).instances][:4]
    return [images.picture(image).path for image in found], [
        torch.from_numpy(Object(image, 0).mask(images, SIDE)) for image in found
    ]


@pytest.mark.parametrize("region", ["whole picture", "left half", "object", "outside an object"])
@pytest.mark.parametrize("name", ["depth", "hed", "seg", "canny"])
def test_the_miniature_s_annotators_hold_the_law(name, region, suite, scenes, tmp_path):
    paths, objects = scenes
    masks = {
        "whole picture": None, "object": objects, "outside an object": [~each for each in objects],
        "left half": REGIONS["left half"][:1] * 4,
    }[region]  # fmt: skip
    network = suite.annotator(name, torch.device("cpu"))
    maps = list(CONDITIONS[name].draw(read_images(paths, SIDE), network))
    pictures = [lambda path=path: read_images([path], SIDE) for path in paths]
    scores = scored(measuring(tmp_path, {name: network}, batch_size=4), pictures, targets_of(name, maps, masks, masks))
    assert_perfect(name, scores, CONDITIONS[name].rulers)


def test_every_ruler_says_what_a_table_needs():
    rulers = [ruler for each in CONDITIONS.values() for ruler in (*each.rulers, *each.object_rulers)]
    names = {ruler.metric for ruler in rulers}
    assert len(names) == len({type(each) if type(each).__name__ != "EdgeF1" else each for each in rulers})
    for ruler in rulers:
        assert ruler.protocol and ruler.version >= 1
        assert ruler.metric.split("_")[0] in CONDITIONS
    for ruler in lawful(rulers):
        assert ruler.oriented(np.array([ruler.best, ruler.best + (-1 if ruler.higher_is_better else 1)])).argmax() == 0
    assert isinstance(SEG.rulers[0], MeanIoU) and isinstance(SEG.rulers[1], PixelAccuracy)
