"""Depth and segmentation networks against the library's own way, from Pillow's pictures to its maps, on photographs.

The library's Pillow processors share no code with those that are used: they resize with Pillow and normalise in numpy.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import (
    DepthAnythingForDepthEstimation,
    DPTForDepthEstimation,
    DPTImageProcessorPil,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SegformerImageProcessor,
    SegformerImageProcessorPil,
    UperNetForSemanticSegmentation,
)

from maxbench.errors import UserError
from maxbench.suites.annotators import DepthEstimator, SegmentationModel
from suites.tiny import write_tiny_depth_anything, write_tiny_dpt, write_tiny_mask2former, write_tiny_upernet

CPU = torch.device("cpu")
SIDE = 160

DEPTH = {
    "dpt hybrid": (write_tiny_dpt, "dpt", DPTForDepthEstimation),
    "dpt": (lambda folder: write_tiny_dpt(folder, hybrid=False), "dpt", DPTForDepthEstimation),
    "depth anything": (write_tiny_depth_anything, "depth_anything", DepthAnythingForDepthEstimation),
}


def photographs():
    """8-bit squares of 160 pixels, which no network here reads as they are."""
    squares = [data.astronaut()[:320, 100:420], data.chelsea()[:300, 75:375], data.coffee()[:400, 100:500]]
    return [Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for each in squares]


def tensor_of(pictures):
    return torch.from_numpy(np.stack([np.asarray(each) for each in pictures])).permute(0, 3, 1, 2).float() / 255


def spread(depth):
    """By its own range, (H, W) in numpy."""
    depth = np.asarray(depth, dtype=np.float64)
    return (depth - depth.min()) / (depth.max() - depth.min())


@pytest.fixture(scope="module")
def images():
    return tensor_of(photographs())


# --- depth ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=DEPTH)
def depth(request, tmp_path_factory):
    write, kind, network = DEPTH[request.param]
    folder = write(tmp_path_factory.mktemp("depth"))
    return folder, DepthEstimator.load(folder, CPU, kind), network


def test_depth_is_what_the_library_makes_of_the_files(depth, images):
    folder, estimator, kind = depth
    processor, model = DPTImageProcessorPil.from_pretrained(folder), kind.from_pretrained(folder).eval()
    own = estimator(images)
    assert own.shape == (3, 1, SIDE, SIDE) and own.dtype == torch.float32
    for each, picture in zip(own[:, 0].numpy(), photographs(), strict=True):
        read = processor(images=picture, return_tensors="pt")
        with torch.no_grad():
            output = model(**read)
        (found,) = processor.post_process_depth_estimation(output, target_sizes=[(SIDE, SIDE)])
        # Pillow and torchvision round a bicubic's 8-bit values apart by a level here and there
        np.testing.assert_allclose(each, spread(found["predicted_depth"]), atol=0.02)
        assert each.std() > 0.05


def test_the_networks_see_the_pixels_that_pillow_prepares(depth, images):
    folder, estimator, _ = depth
    read = DPTImageProcessorPil.from_pretrained(folder)(images=photographs(), return_tensors="pt").pixel_values
    seen = []
    hook = estimator.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    estimator(images)
    hook.remove()
    scale = 255 * float(np.min(json.loads((folder / "preprocessor_config.json").read_text())["image_std"]))
    assert seen[0].shape == read.shape and seen[0].shape[0] == 3  # all at once
    assert (seen[0] - read).abs().max() <= 1.01 / scale  # one level


def test_every_map_fills_its_range_alone(depth, images):
    _, estimator, _ = depth
    maps = estimator(images)
    assert torch.equal(maps.amin((1, 2, 3)), torch.zeros(3)) and torch.equal(maps.amax((1, 2, 3)), torch.ones(3))
    torch.testing.assert_close(maps[1:2], estimator(images[1:2]), rtol=0, atol=1e-5)


def test_near_is_bright(depth, images, monkeypatch):
    """What the networks say is inverse depth; it is passed on as it is, and not turned round."""
    _, estimator, _ = depth

    class Output:
        predicted_depth = torch.linspace(3, 7, 16)[None, None].expand(3, 16, 16)  # grows to the right

    monkeypatch.setattr(type(estimator.model), "forward", lambda self, pixel_values: Output)
    columns = torch.nn.functional.avg_pool2d(estimator(images), (SIDE, 20)).flatten(1)  # (3, 8), free of overshoot
    assert (columns.diff(dim=1) > 0.05).all()


@pytest.mark.parametrize("level", [0.0, 5.0, -0.3, 1e30])
def test_a_depth_that_is_the_same_everywhere_is_black_and_not_nan(depth, images, monkeypatch, level):
    _, estimator, _ = depth

    class Output:
        predicted_depth = torch.full((3, 16, 16), level)

    monkeypatch.setattr(type(estimator.model), "forward", lambda self, pixel_values: Output)
    assert torch.equal(estimator(images), torch.zeros(3, 1, SIDE, SIDE))


def test_a_small_range_is_spread_as_a_large_one(depth, images, monkeypatch):
    _, estimator, _ = depth
    ramp = torch.linspace(0, 1, 16)[None, None].expand(3, 16, 16)
    maps = []
    for scale in (1e-3, 1.0, 1e3):

        class Output:
            predicted_depth = 1 + scale * ramp

        monkeypatch.setattr(type(estimator.model), "forward", lambda self, pixel_values, output=Output: output)
        maps.append(estimator(images))
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=2e-3)
    torch.testing.assert_close(maps[2], maps[1], rtol=0, atol=1e-5)


def test_pictures_of_other_shapes_come_back_in_their_own(depth):
    _, estimator, _ = depth
    assert estimator(torch.rand(2, 3, 96, 64)).shape == (2, 1, 96, 64)


def test_depth_in_metres_is_refused(tmp_path):
    folder = write_tiny_depth_anything(tmp_path / "da")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "depth_estimation_type": "metric", "max_depth": 20}))
    with pytest.raises(UserError, match="in metres"):
        DepthEstimator.load(folder, CPU, "depth_anything")


# --- segmentation --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upernet(tmp_path_factory):
    return write_tiny_upernet(tmp_path_factory.mktemp("upernet"))


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    return write_tiny_mask2former(tmp_path_factory.mktemp("mask2former"))


def checked(scores, classes=150):
    """Scores of the classes, without the channel of "nothing", which must never be chosen."""
    assert scores.shape == (3, classes + 1, SIDE, SIDE) and scores.dtype == torch.float32
    labels = scores.argmax(1)
    assert labels.min() >= 1 and len(labels.unique()) > 2 and not scores[:, 1:].isinf().any()
    return scores[:, 1:]


def test_upernet_is_what_the_library_makes_of_the_files(upernet, images):
    scores = checked(SegmentationModel.load(upernet, CPU, "upernet")(images))
    model = UperNetForSemanticSegmentation.from_pretrained(upernet).eval()
    with torch.no_grad():
        output = model(**SegformerImageProcessorPil.from_pretrained(upernet)(images=photographs(), return_tensors="pt"))
    wanted = SegformerImageProcessor().post_process_semantic_segmentation(output, target_sizes=[(SIDE, SIDE)] * 3)
    for own, expected in zip(scores, wanted, strict=True):  # by pixels that a level of the resizing turns
        assert (own.argmax(0) == expected).float().mean() > 0.98


def test_mask2former_is_what_the_library_makes_of_the_files(mask2former, images):
    annotator = SegmentationModel.load(mask2former, CPU, "mask2former")
    scores = checked(annotator(images))
    assert ((scores >= 0) & (scores <= 6)).all()  # a sum of six queries' shares
    model = Mask2FormerForUniversalSegmentation.from_pretrained(mask2former).eval()
    processor = Mask2FormerImageProcessor.from_pretrained(mask2former)
    with torch.no_grad():
        output = model(pixel_values=processor(images=photographs(), return_tensors="pt").pixel_values)
    found = processor.post_process_semantic_segmentation(
        output, target_sizes=[(SIDE, SIDE)] * 3, return_segmentation_scores=True
    )
    for own, expected in zip(scores, found, strict=True):
        torch.testing.assert_close(own, expected["segmentation_scores"], rtol=1e-4, atol=1e-5)
        assert (own.argmax(0) == expected["segmentation"]).float().mean() > 0.999


def test_mask2formers_scores_by_hand():
    """sum over queries of softmax(class)_c sigmoid(mask), of masks that need no resizing."""
    from maxbench.suites.annotators import mask2former_scores

    generator = torch.Generator().manual_seed(0)

    class Output:
        class_queries_logits = torch.randn(1, 3, 5, generator=generator)  # four classes and "no object"
        masks_queries_logits = torch.randn(1, 3, 1, 1, generator=generator).expand(1, 3, 96, 96)

    chances = np.exp(Output.class_queries_logits[0].numpy())
    chances = (chances / chances.sum(1, keepdims=True))[:, :4]
    masks = 1 / (1 + np.exp(-Output.masks_queries_logits[0, :, 0, 0].numpy()))
    np.testing.assert_allclose(mask2former_scores(Output)[0, :, 7, 9].numpy(), masks @ chances, rtol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("upernet", "upernet"), ("mask2former", "mask2former")])
def test_labels_do_not_depend_on_the_company(name, kind, images, request):
    annotator = SegmentationModel.load(request.getfixturevalue(name), CPU, kind)
    torch.testing.assert_close(annotator(images)[2:, 1:], annotator(images[2:])[:, 1:], rtol=1e-3, atol=1e-4)


# --- files ---------------------------------------------------------------------------------------------------


def test_mistakes_are_sentences(upernet, mask2former, tmp_path):
    with pytest.raises(UserError, match="knows 150 classes, but the suite's segmentation has 19"):
        SegmentationModel.load(upernet, CPU, "upernet", classes=19)
    with pytest.raises(UserError, match="known are upernet, mask2former"):
        SegmentationModel.load(upernet, CPU, "segformer")
    with pytest.raises(UserError, match="known are dpt, depth_anything"):
        DepthEstimator.load(upernet, CPU, "midas")
    with pytest.raises(UserError):
        SegmentationModel.load(mask2former, CPU, "upernet")
    folder = write_tiny_dpt(tmp_path / "dpt")
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "do_center_crop": True, "crop_size": 32}))
    with pytest.raises(UserError, match="crops pictures"):
        DepthEstimator.load(folder, CPU)
    file.unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json is missing"):
        DepthEstimator.load(folder, CPU)


def test_only_what_a_dpt_never_reads_may_be_missing(tmp_path):
    folder = write_tiny_dpt(tmp_path / "dpt")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert not any(name.startswith("neck.fusion_stage.layers.0.residual_layer1") for name in state)
    name = "neck.fusion_stage.layers.1.residual_layer1.convolution1.weight"
    torch.save({each: tensor for each, tensor in state.items() if each != name}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"it lacks {name}"):
        DepthEstimator.load(folder, CPU)


def test_what_a_dpt_never_reads_does_not_matter(tmp_path, images):
    estimator = DepthEstimator.load(write_tiny_dpt(tmp_path / "dpt"), CPU)
    before = estimator(images)
    unread = estimator.model.neck.fusion_stage.layers[0].residual_layer1
    for parameter in unread.parameters():
        parameter.fill_(7)
    assert torch.equal(estimator(images), before)
