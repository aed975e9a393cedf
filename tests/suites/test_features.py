"""The feature networks, small and random in the published layouts, against the pictures' path written out."""

import socket

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from maxbench.errors import UserError
from maxbench.suites.features import ClipFeatures, DinoFeatures, InceptionFeatures

CPU = torch.device("cpu")
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # the published file is TorchScript


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce = nn.Conv2d(3, 8, 23, stride=23)
        self.widen = nn.Linear(8, 2048)

    def forward(self, x):
        return self.widen(torch.tanh(self.reduce(x)).mean(dim=(2, 3)))


class TinyInception(nn.Module):
    """The published script's outside: the layers after the normalisation are a part of their own."""

    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x):
        return self.layers(x)


def inception_folder(folder):
    torch.manual_seed(0)
    net = TinyInception().eval()
    torch.jit.script(net).save(str(folder / "inception-2015-12-05.pt"))
    return net


def dino_folder(folder):
    torch.manual_seed(0)
    net = Dinov2Model(Dinov2Config(**TOWER, image_size=518, patch_size=14)).eval()
    net.save_pretrained(folder)
    return net


def clip_folder(folder, whole):
    torch.manual_seed(0)
    vision = {**TOWER, "intermediate_size": 16, "image_size": 56, "patch_size": 14}
    if whole:
        text = {**TOWER, "intermediate_size": 16, "vocab_size": 9}
        net = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    else:
        net = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision, projection_dim=8)).eval()
    net.save_pretrained(folder)
    return net


def pictures(count: int = 3, size: int = 64) -> torch.Tensor:
    levels = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1))
    return levels.float() / 255


def files(images: torch.Tensor) -> list[Image.Image]:
    """As a store would give them back."""
    return [Image.fromarray(np.uint8(np.rint(255 * image.permute(1, 2, 0).numpy()))) for image in images]


@pytest.fixture(params=["inception", "dino", "clip whole", "clip vision"])
def features(request, tmp_path):
    if request.param == "inception":
        inception_folder(tmp_path)
        return InceptionFeatures.load(tmp_path, CPU)
    if request.param == "dino":
        dino_folder(tmp_path)
        return DinoFeatures.load(tmp_path, CPU)
    clip_folder(tmp_path, request.param.endswith("whole"))
    return ClipFeatures.load(tmp_path, CPU)


def test_a_picture_does_not_depend_on_its_batch(features):
    images = pictures()
    together = features.images(images)
    assert together.dtype == torch.float32 and together.shape[0] == 3 and together.ndim == 2
    alone = torch.cat([features.images(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4
    assert torch.equal(together, features.images(images))


def test_a_picture_is_what_its_file_holds(features):
    images = pictures()
    between = (images + 0.4 / 255).clamp(max=1)  # which the file rounds
    assert torch.equal(features.images(between), features.images(images))


def test_pictures_of_wrong_shape_or_range_are_named(features):
    with pytest.raises(ValueError, match=r"pictures must be \(batch, 3, size, size\), got \(3, 64, 64\)"):
        features.images(pictures()[0])
    with pytest.raises(ValueError, match=r"got \(3, 3, 64, 32\)"):
        features.images(pictures()[..., :32])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got values from 0 to 2"):
        features.images(2 * pictures())
    with pytest.raises(ValueError, match="must lie in"):
        features.images(pictures() * float("nan"))


@pytest.mark.parametrize("size", [64, 400])
def test_inception_reads_pictures_as_clean_fid_in_its_mode_clean(tmp_path, size):
    net, images = inception_folder(tmp_path), pictures(2, size)
    channels = [
        [
            np.asarray(Image.fromarray(np.float32(channel)).resize((299, 299), Image.Resampling.BICUBIC))
            for channel in file
        ]
        for file in np.rint(255 * images.numpy())
    ]
    pixels = torch.tensor(np.array(channels).clip(0, 255))
    with torch.no_grad():
        expected = net.layers((pixels - 128) / 128)
    found = InceptionFeatures.load(tmp_path, CPU).images(images)
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dino_is_the_class_token_at_224_pixels(tmp_path):
    net, images = dino_folder(tmp_path), pictures(2, 300)
    read = Compose(
        [
            Resize((224, 224), InterpolationMode.BICUBIC),
            ToTensor(),
            Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        expected = net(torch.stack([read(file) for file in files(images)])).pooler_output
    found = DinoFeatures.load(tmp_path, CPU).images(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_clip_is_the_projected_embedding_at_its_own_size(tmp_path, whole):
    net, images = clip_folder(tmp_path, whole), pictures(2, 80)
    read = Compose(
        [
            Resize(56, InterpolationMode.BICUBIC),
            CenterCrop(56),
            ToTensor(),
            Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        ]
    )
    pixels = torch.stack([read(file) for file in files(images)])
    with torch.no_grad():
        tower = net.vision_model if whole else net
        pooled = tower(pixels)
        expected = net.visual_projection(pooled.pooler_output) if whole else pooled.image_embeds
    found = ClipFeatures.load(tmp_path, CPU).images(images)
    assert found.shape == (2, 8)
    assert (found.norm(dim=1) - 1).abs().max() > 1e-3  # not scaled here
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (
            InceptionFeatures,
            r"inception-2015-12-05\.pt is missing: fetch it from https://.*inception-2015-12-05\.pt and",
        ),
        (DinoFeatures, r"config\.json is missing: fetch facebook/dinov2-large from the Hugging Face Hub and "),
        (
            ClipFeatures,
            r"config\.json is missing: fetch openai/clip-vit-large-patch14-336 from the Hugging Face Hub and ",
        ),
    ],
)
def test_what_is_missing_is_named_and_never_fetched(tmp_path, monkeypatch, kind, wanted):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UserError, match=wanted + ".* into ") as caught:
        kind.load(tmp_path / "nowhere", CPU)
    assert str(tmp_path / "nowhere") in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "inception-2015-12-05.pt").write_bytes(b"not a script")
    with pytest.raises(UserError, match=r"inception-2015-12-05\.pt cannot be loaded"):
        InceptionFeatures.load(tmp_path, CPU)
    (tmp_path / "config.json").write_text("{")
    for kind in (DinoFeatures, ClipFeatures):
        with pytest.raises(UserError, match=r"config\.json cannot be loaded"):
            kind.load(tmp_path, CPU)
    dino_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        DinoFeatures.load(tmp_path, CPU)
