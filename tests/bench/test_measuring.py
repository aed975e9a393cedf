"""What is timed, what is refused, and what a watched pass says."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maxbench import images as im
from maxbench.bench.cases import (
    SUM,
    Reference,
    by_executor,
    difference,
    pictures,
    require_agreement,
    require_comparable,
)
from maxbench.bench.parts import CONTROLS, DECODE, FUSION, HINTS, PARTS, UNET, parts_of, parts_of_reference
from maxbench.bench.rates import denoising_flops, flops, matrix_rate
from maxbench.bench.runner import DENOISING, DIFFUSERS, END_TO_END, Case, measure
from maxbench.errors import UserError
from maxbench.fusion import Average
from maxbench.models.control import ADAPTER, SPATIAL
from maxbench.store.runfolder import image_file


class Louder(Reference):
    """diffusers with one control twice as strong: a mistake that a comparison must find."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.settings["controlnet_conditioning_scale"][0] *= 2


def ours(subject, name=SUM, batch=0):
    return pictures(subject.pipeline, subject.methods[name], subject.sampler, subject.batches[batch])


# --- agreement --------------------------------------------------------------------------------------------


def test_diffusers_makes_the_pictures_of_the_sum(subject):
    theirs = Reference(subject.pipeline, subject.methods[SUM], subject.sampler)(subject.batches[0])
    assert difference(ours(subject), theirs) < 1e-5
    assert difference(ours(subject, "average"), theirs) > 1e-3  # the comparison could have failed
    assert difference(ours(subject, "none"), theirs) > 1e-3


def test_both_follow_a_method_that_stops_early_and_weighs_its_branches(subject):
    method = replace(subject.methods[SUM], control_end={"hed": 0.5}, branch_scale={"depth": 0.3})
    theirs = Reference(subject.pipeline, method, subject.sampler)(subject.batches[0])
    made = pictures(subject.pipeline, method, subject.sampler, subject.batches[0])
    assert difference(made, theirs) < 1e-5
    assert difference(ours(subject), theirs) > 1e-3


def test_batches_are_of_other_pictures(subject):
    assert difference(ours(subject), ours(subject, batch=1)) > 1e-2


def test_other_pictures_are_refused_before_anything_is_timed(subject, tmp_path):
    def never(*arguments):
        raise AssertionError("it was called")

    with pytest.raises(UserError, match=r"different pictures.*nothing was timed"):
        measure(subject, 1, tmp_path, end_to_end=never, reference=Louder)


def test_a_picture_that_is_no_number_agrees_with_nothing():
    broken = torch.full((1, 3, 2, 2), torch.nan)
    with pytest.raises(UserError):
        require_agreement(broken, broken, torch.float32, "two")


def test_a_sum_that_diffusers_cannot_make_is_refused(subject):
    methods = subject.methods
    for changed, said in (
        ({"rule": Average()}, "is not the sum"),
        ({"sites": ("down",)}, "is not the sum"),
        ({"layer_scale": [1.0] * 6}, "is not the sum"),
        ({"fusion_start": 0.5}, "fusion_start"),
        ({"branches": ("hed",)}, "1 control"),
    ):
        with pytest.raises(UserError, match=said):
            replace(subject, methods={**methods, SUM: replace(methods[SUM], **changed)})
    with pytest.raises(UserError, match="no method 'sum'"):
        require_comparable({}, lambda name: SPATIAL)
    with pytest.raises(UserError, match="of depth is no ControlNet"):
        require_comparable(methods, lambda name: ADAPTER if name == "depth" else SPATIAL)


# --- a measurement ----------------------------------------------------------------------------------------


def test_every_case_is_timed_in_every_turn_by_the_loop_that_is_given(subject, tmp_path):
    asked = []

    def loop(pipeline, method, sampler, batches, folder):
        asked.append((pipeline is subject.pipeline, method.name, len(batches), folder))

    few = replace(subject, methods={name: subject.methods[name] for name in ("maxfusion", SUM)})
    result = measure(few, 2, tmp_path, end_to_end=loop)
    cases = [Case(DIFFUSERS, False), Case(SUM, False), Case("maxfusion", False)]
    cases += [Case(SUM, False, does) for does in (DENOISING, END_TO_END)]
    assert list(result.seconds) == cases
    assert all(len(each) == 2 and min(each) > 0 for each in result.seconds.values())
    assert [result.count[case] for case in cases] == [2, 2, 2, 6, 6]
    assert asked == [(True, SUM, 3, tmp_path)] * 3  # a warm-up and two turns
    assert set(result.parts) == {DIFFUSERS, SUM, "maxfusion"}
    assert result.memory == {}  # of a processor
    assert list(result.differences.values()) == pytest.approx([0], abs=1e-5)


def test_compiled_cases_are_those_of_their_own_networks(subject, tmp_path):
    """Without the compiler: what is called with which networks, and held against whom."""
    asked = []

    class Counted(Reference):
        def __init__(self, pipeline, method, sampler, compiled):
            asked.append((pipeline is other, compiled))
            super().__init__(pipeline, method, sampler)

    other = replace(subject.pipeline)
    few = replace(subject, methods={SUM: subject.methods[SUM]}, compiled=other)
    result = measure(few, 1, tmp_path, end_to_end=lambda *arguments: None, reference=Counted)
    assert asked == [(False, False), (True, True)]
    assert result.modes == [False, True]
    assert [case.compiled for case in result.seconds] == [False] * 4 + [True] * 4
    assert set(result.differences) == {
        "sum and diffusers", "diffusers, compiled and diffusers", "sum, compiled and diffusers"
    }  # fmt: skip


def test_the_plain_loop_leaves_the_pictures(subject, tmp_path):
    by_executor(subject.pipeline, subject.methods[SUM], subject.sampler, subject.batches, tmp_path)
    (run,) = tmp_path.iterdir()
    assert {path.name for path in (run / "bench").iterdir()} >= {"images", "records", "maxbench-run.json"}
    for number in range(3):
        expected = im.to_bytes(ours(subject, batch=number))
        for place, array in enumerate(expected):
            file = run / "bench" / image_file(SUM, f"bench-{place}", number)
            assert np.array_equal(im.read_png(file), array)
            assert file.stat().st_nlink > 1  # kept in the store as a run's pictures are
    by_executor(subject.pipeline, subject.methods[SUM], subject.sampler, subject.batches, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # made again, and not found


# --- parts ------------------------------------------------------------------------------------------------


def test_parts_are_all_of_a_batch(subject, tmp_path):
    found = parts_of(subject, subject.methods["maxfusion"], 1, tmp_path)
    assert tuple(found) == PARTS
    assert min(found.values()) > 0
    without = parts_of(subject, subject.methods["none"], 1, tmp_path)
    assert HINTS not in without and FUSION not in without
    assert without[CONTROLS] < found[CONTROLS] / 10


def test_parts_of_diffusers_do_not_overlap(subject):
    reference = Reference(subject.pipeline, subject.methods[SUM], subject.sampler)
    found = parts_of_reference(reference, subject.batches[0], 1)
    assert set(found) == set(PARTS) - {FUSION, "PNG encoding", "write"}
    assert min(found.values()) > 0


def test_watching_changes_no_picture_and_leaves_nothing_behind(subject, tmp_path):
    before = ours(subject, "maxfusion")
    reference = Reference(subject.pipeline, subject.methods[SUM], subject.sampler)
    parts_of(subject, subject.methods["maxfusion"], 1, tmp_path)
    parts_of_reference(reference, subject.batches[0], 1)
    watched = [im.read_png(tmp_path / f"{place}.png") for place in range(2)]
    assert np.array_equal(np.stack(watched), im.to_bytes(before))
    nets = [subject.pipeline.unet, reference.diffusers.controlnet, *subject.pipeline.controls.values()]
    for net in nets:
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert "encode_prompt" not in vars(reference.diffusers)


def test_a_slow_part_is_seen_where_it_is(subject, tmp_path):
    """Half a second in the decoder and in the U-Net's first layer is found there and nowhere else."""
    plain = parts_of(subject, subject.methods[SUM], 1, tmp_path)
    hooks = [
        module.register_forward_pre_hook(lambda *_: time.sleep(0.25))
        for module in (subject.pipeline.vae.decoder, subject.pipeline.unet.conv_in)
    ]
    try:
        slow = parts_of(subject, subject.methods[SUM], 1, tmp_path)
    finally:
        for hook in hooks:
            hook.remove()
    more = {part: slow[part] - plain[part] for part in PARTS}
    assert more[DECODE] > 0.2 and more[UNET] > 0.45  # of two steps
    assert all(value < 0.2 for part, value in more.items() if part not in (DECODE, UNET))


# --- the device -------------------------------------------------------------------------------------------


def test_flops_are_those_of_the_formulas():
    convolution, linear = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(5, 7)
    assert flops(lambda: convolution(torch.zeros(2, 4, 8, 9))) == 2 * 2 * 6 * 8 * 9 * 4 * 3 * 3
    assert flops(lambda: linear(torch.zeros(3, 5))) == 2 * 3 * 5 * 7
    query, key = torch.randn(2, 3, 16, 8), torch.randn(2, 3, 20, 8)
    with torch.inference_mode():
        assert flops(lambda: F.scaled_dot_product_attention(query, key, key)) == 2 * 2 * 2 * 3 * 16 * 20 * 8


def test_the_work_of_denoising_is_that_of_its_layers(subject):
    """Counted once more by the shapes that go through convolutions, linear layers and attention."""
    counted = []

    def of_layer(layer, _, out):
        inner = layer.in_features if isinstance(layer, nn.Linear) else layer.weight[0].numel()
        counted.append(2 * out.numel() * inner)

    def of_attention(layer, inputs, settings, out):
        hidden, text = inputs[0], settings.get("encoder_hidden_states")
        queries = hidden.shape[-2] if hidden.ndim == 3 else hidden.shape[-2] * hidden.shape[-1]
        keys = queries if text is None else text.shape[1]
        counted.append(4 * len(hidden) * queries * keys * layer.to_q.out_features)

    nets = [subject.pipeline.unet, *subject.pipeline.controls.values()]
    hooks = []
    for module in (module for net in nets for module in net.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            hooks.append(module.register_forward_hook(of_layer))
        elif type(module).__name__ == "Attention":
            hooks.append(module.register_forward_hook(of_attention, with_kwargs=True))
    try:
        ours(subject)
    finally:
        for hook in hooks:
            hook.remove()
    found = denoising_flops(subject.pipeline, subject.methods[SUM], subject.sampler, subject.batches[0])
    assert found == pytest.approx(sum(counted) / 2, rel=1e-6)


def test_the_matrix_rate_is_a_rate(subject):
    rate = matrix_rate(subject.pipeline, subject.sampler, subject.batches[0])
    assert rate.most == max(rate.product, rate.convolution) and min(rate) > 1e7
