"""Compiled steps: the same numbers, as few graphs as there are constants, and mistakes in a sentence."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch._dynamo.utils import counters

from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.fusion import Average, Fusion, MaxFusion, Rule, Sum, Weighted
from maxbench.models.compiled import Graphs, NotCompiled, _run, _step
from maxbench.models.control import Nets
from maxbench.models.pipeline import Sampler
from maxbench.models.precision import Precision

SAMPLER = Sampler(DDIMScheduler.from_config, steps=3, guidance_scale=3.0)
NAMES = ["hed", "depth"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # latents are of the order of 1


@pytest.fixture(scope="module")
def pipeline(small_suite):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={small_suite}"])
    return instantiate(cfg.suite, _convert_="all").pipeline(NAMES, torch.device("cpu"), torch.float32)


@pytest.fixture
def traced(pipeline):
    """The same pipeline, whose steps are traced whole and run as they were traced, without a compiler's minutes."""
    torch.compiler.reset()
    return replace(pipeline, graphs=Graphs("eager"))


def latents(pipeline, fusion):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    hints = {name: torch.rand(1, 3, 64, 64, generator=generator) for name in NAMES}
    text, negative = pipeline.encode_text(["a red sphere"]), pipeline.encode_text([""])
    return pipeline.denoise(noise, text, negative, pipeline.control(hints, fusion), SAMPLER)


def test_methods_that_differ_in_strengths_share_a_graph(pipeline, traced):
    counters.clear()
    base = Fusion(MaxFusion())
    for fusion in (
        base, replace(base, scale=0.6), replace(base, branch_scale={"hed": 0.5}), replace(base, rule=MaxFusion(0.7)),
    ):  # fmt: skip
        torch.testing.assert_close(latents(traced, fusion), latents(pipeline, fusion), **CLOSE)
    assert len(traced.graphs.made) == 1
    assert counters["stats"]["unique_graphs"] == 1  # no step and no strength was traced anew


def test_what_a_replay_will_overwrite_is_copied_first(pipeline, monkeypatch):
    """As CUDA graphs are: every result of a graph lies in the same memory, and this scheduler keeps the last few."""
    begun, modes = [], []

    def compiled(step, mode, **_):
        kept = {}
        modes.append(mode)

        def graph(*arguments):
            found = step(*arguments)
            return kept.setdefault("result", torch.empty_like(found)).copy_(found)

        return graph

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))
    monkeypatch.setattr(Graphs, "_are_replayed", lambda *_: True)
    monkeypatch.setitem(globals(), "SAMPLER", Sampler(PNDMScheduler.from_config, steps=6, guidance_scale=1.0))
    expected = latents(pipeline, Fusion(MaxFusion()))
    assert torch.equal(latents(replace(pipeline, graphs=Graphs()), Fusion(MaxFusion())), expected)
    assert modes == ["reduce-overhead"] and len(begun) >= SAMPLER.steps


@pytest.mark.slow
def test_branches_that_come_and_go_are_a_graph_each(pipeline, traced):
    counters.clear()
    fusion = Fusion(Average(), control_end={"hed": 0.4})
    torch.testing.assert_close(latents(traced, fusion), latents(pipeline, fusion), **CLOSE)
    assert [each.acting.spatial for each, _ in traced.graphs.made] == [("hed", "depth"), ("depth",)]
    assert counters["stats"]["unique_graphs"] == 2


def test_any_number_of_graphs_is_kept():
    """torch keeps eight for one code and then, without a word, compiles no more."""
    torch.compiler.reset()
    counters.clear()
    x, nets = torch.ones(1, 1, 1, 1), Nets((), (), Sum(), ())

    def network(factor):
        return lambda sample, timestep, encoder_hidden_states, return_dict: (factor * sample,)

    class Nothing:
        prompt, pyramid, pooled, pooled_weights = {}, [], [], []

    factors = [float(factor) for factor in range(20)]
    graphs = [
        torch.compile(_step(network(factor), nets), fullgraph=True, dynamic=False, backend="eager")
        for factor in factors
    ]
    for _ in range(2):
        assert [graph(x, x, x, Nothing).item() for graph in graphs] == factors
    assert counters["stats"]["unique_graphs"] == len(factors)


@dataclass(frozen=True)
class Recorded(Rule):
    """A rule that keeps a record by branch."""

    seen: list = field(default_factory=list)
    names: tuple = ()

    def for_branches(self, names):
        return Recorded(self.seen, tuple(names))

    def unmerge(self, features):
        return list(features)

    def merge(self, features):
        self.seen.append(self.names)
        return sum(features)


def test_a_rule_that_keeps_a_record_is_not_compiled(pipeline, traced):
    rule = Recorded()
    assert torch.equal(latents(traced, Fusion(rule)), latents(pipeline, Fusion(Sum())))
    assert traced.graphs.made == [] and len(rule.seen) % SAMPLER.steps == 0 and set(rule.seen) == {("hed", "depth")}


@dataclass(frozen=True)
class Hesitating(Rule):
    """A rule that waits for a number before it goes on."""

    def unmerge(self, features):
        return list(features)

    def merge(self, features):
        return features[0] if features[0].sum().item() > 0 else features[1]


@pytest.mark.slow
def test_a_rule_that_cannot_be_traced_is_said_in_a_sentence(traced):
    with pytest.raises(UserError, match=r"A denoising step cannot be compiled \(.+\); set runtime.compile=false\."):
        latents(traced, Fusion(Hesitating()))


@pytest.mark.slow
def test_what_a_rule_refuses_is_said_in_its_own_words(traced):
    with pytest.raises(UserError, match="Weighted on hed, depth: 1 weights and 2 branches"):
        latents(traced, Fusion(Weighted([1.0])))


def test_without_a_compiler_there_is_a_sentence():
    torch.compiler.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        graph = torch.compile(lambda x: x.sin() + 1, fullgraph=True)
        with pytest.raises(NotCompiled, match=r"cannot be compiled \(.+\); set runtime.compile=false\."):
            _run(graph, torch.ones(64))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_steps_make_nearly_the_same_latents(pipeline, small_suite, dtype):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={small_suite}"])
    suite = instantiate(cfg.suite, _convert_="all")
    own = [
        suite.pipeline(NAMES, torch.device("cpu"), dtype).computing(Precision(dtype, compiled=each), 1, 64)
        for each in (False, True)
    ]
    fusion = Fusion(MaxFusion(), scale=0.8, branch_scale={"hed": 0.7})
    one, two = (latents(each, fusion) for each in own)
    assert len(own[1].graphs.made) == 1
    tolerance = CLOSE if dtype == torch.float32 else {"rtol": 0, "atol": 0.2}
    torch.testing.assert_close(two, one, **tolerance)
