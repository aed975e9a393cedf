"""Names of layers, against the networks that they are the layers of."""

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from maxbench.fusion import MaxFusion
from maxbench.generation.recording import OUTPUT, UNET, UNMERGE, Trace, Traced
from maxbench.models import lockstep_controlnets
from maxbench.report.layers import (
    adapter_layers,
    control_layers,
    main_layers,
    step_name,
    unet_layers,
    unmerged_layers,
)


def shape(blocks, layers):
    return {
        "block_out_channels": (8,) * blocks, "layers_per_block": layers, "norm_num_groups": 4, "attention_head_dim": 4,
        "cross_attention_dim": 8, "down_block_types": ("DownBlock2D",) * blocks,
    }  # fmt: skip


@pytest.fixture(scope="module", params=[(2, 1), (3, 2), (4, 2)], ids=str)
def net(request):
    blocks, layers = request.param
    torch.manual_seed(0)
    return ControlNetModel(**shape(blocks, layers), conditioning_embedding_out_channels=(8, 8)), blocks, layers


def traced(net, sites=()):
    """The trace of two branches of one network on latents of 16 x 16."""
    trace = Trace(branches=("hed", "depth"), size=1, keep=1, steps=[0])
    with torch.no_grad():
        lockstep_controlnets(
            [net, net], Traced(MaxFusion(), trace), torch.randn(1, 4, 16, 16), 1, torch.zeros(1, 2, 8),
            [torch.rand(1, 3, 32, 32)] * 2, sites=sites,
        )  # fmt: skip
    return trace.table()


def test_outputs_are_named_by_block_and_layer(net):
    network, blocks, layers = net
    table = traced(network)
    names = control_layers(table[table.kind == OUTPUT]["size"].tolist())
    inner = [f"down block {block + 1}, {layer}" for block in range(blocks)
             for layer in [*(f"layer {number + 1}" for number in range(layers)), "halved"]]  # fmt: skip
    assert names == ["input convolution", *inner[:-1], "mid block"]


@pytest.mark.parametrize(
    "sites", [("conv_in", "down", "mid"), ("hint",), ("hidden",), ("residuals", "mid"), ("down.1",), ()], ids=str
)
def test_unmerging_is_at_the_layer_whose_map_has_its_size(net, sites):
    network, *_ = net
    table = traced(network, sites)
    sides = table[table.kind == OUTPUT]["size"].tolist()
    unmerged = table[table.kind == UNMERGE]["size"].tolist()
    assert [sides[place] for place in unmerged_layers(control_layers(sides), sites)] == unmerged


def test_maps_that_are_no_controlnet_s_are_numbered():
    for sides in ([64, 32, 16, 8], [8], [], [16, 16, 4, 4], [4, 4, 8, 8]):
        assert control_layers(sides) == [f"output {place + 1}" for place in range(len(sides))]


def test_blocks_of_the_unet_are_as_many_down_as_up():
    net = UNet2DConditionModel(**shape(2, 1), up_block_types=("UpBlock2D",) * 2)
    trace = Trace(branches=(), size=1, keep=1, steps=[0])
    with trace.over(net), torch.no_grad():
        net(torch.randn(1, 4, 16, 16), 7, torch.zeros(1, 2, 8))
    found = {key.split("/")[1] for key in trace.maps if key.startswith(UNET) and key.endswith("saliency")}
    assert unet_layers(len(found)) == ["down block 1", "down block 2", "up block 1", "up block 2"]
    assert float(trace.maps[f"{UNET}/0/0/timestep"]) == 7
    assert adapter_layers(2) == ["adapter level 1", "adapter level 2"]


def test_of_many_layers_the_last_of_each_block_are_shown():
    names = control_layers([64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8, 8])  # Stable Diffusion's
    assert len(names) == 13
    kept = [names[place] for place in main_layers(names, 8)]
    assert kept == ["input convolution", *(f"down block {block}, layer 2" for block in range(1, 5)), "mid block"]
    assert main_layers(names[:7], 8) == list(range(7))
    assert len(main_layers([f"output {place}" for place in range(20)], 8)) == 8


def test_steps_are_counted_from_one():
    assert step_name(2, 10) == "step 3 of 10" and step_name(0, None) == "step 1"
    assert step_name(2, 10, 701.0) == "step 3 of 10\ntimestep 701"
