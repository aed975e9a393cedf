"""What a configured object is known by: its settings and its code, and nothing else."""

import enum
import importlib
import json
import sys
from dataclasses import InitVar, dataclass, field, fields, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maxbench.conditions.canny import Canny
from maxbench.conditions.depth import Depth
from maxbench.errors import UserError
from maxbench.fusion import (
    Average,
    LargestNorm,
    MaxFusion,
    PublishedMaxFusion,
    RandomChoice,
    SoftmaxSaliency,
    Sum,
    Weighted,
)
from maxbench.models.pipeline import Sampler
from maxbench.store.files import fingerprint
from maxbench.store.identity import PACKAGE, code_fingerprint, identity, source_digest

RULES = [Sum(), Average(), Weighted([1, 0.5]), MaxFusion(), PublishedMaxFusion(), SoftmaxSaliency(), LargestNorm()]
RULES += [RandomChoice(), Canny(), Depth()]


def known_by(thing) -> str:
    return fingerprint(identity(thing))


# --- ours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", RULES, ids=lambda thing: type(thing).__name__)
def test_equal_settings_are_one_identity_and_it_is_plain_data(thing):
    again = type(thing)(**{each.name: getattr(thing, each.name) for each in fields(thing) if each.init})
    assert identity(again) == identity(thing) == json.loads(json.dumps(identity(thing)))


def test_every_class_is_another_identity():
    assert len({known_by(each) for each in RULES}) == len(RULES)


@pytest.mark.parametrize("thing", RULES, ids=lambda thing: type(thing).__name__)
def test_every_number_of_a_rule_is_part_of_its_identity(thing):
    for each in fields(thing):
        value = getattr(thing, each.name)
        if isinstance(value, bool):
            other = replace(thing, **{each.name: not value})
        elif isinstance(value, int | float):
            other = replace(thing, **{each.name: value + 1})
        else:
            continue
        assert known_by(other) != known_by(thing), each.name


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_two_numbers_are_two_identities(one, two):
    assert (known_by(MaxFusion(one)) == known_by(MaxFusion(two))) == (repr(one) == repr(two))


def test_a_rule_within_a_rule_counts():
    @dataclass(frozen=True)
    class Half:
        inner: object

    assert known_by(Half(MaxFusion(0.3))) == known_by(Half(MaxFusion(0.3)))
    assert len({known_by(Half(each)) for each in (MaxFusion(0.3), MaxFusion(0.4), Sum())}) == 3


def test_a_class_of_ours_is_known_by_its_version_and_not_by_where_it_lies(monkeypatch):
    before = known_by(MaxFusion())
    monkeypatch.setattr(MaxFusion, "__module__", "maxbench.fusion.elsewhere")
    assert known_by(MaxFusion()) == before
    monkeypatch.setattr(MaxFusion, "version", 17)
    assert known_by(MaxFusion()) != before


def test_a_raised_version_of_a_base_class_counts(monkeypatch):
    before = known_by(MaxFusion()), known_by(Sampler)
    monkeypatch.setattr(MaxFusion.__mro__[1], "version", 17)
    assert known_by(MaxFusion()) != before[0] and known_by(Sampler) == before[1]


# --- values --------------------------------------------------------------------------------------------------


class Way(enum.Enum):
    UP, DOWN = "up", "down"


def test_values_are_told_apart():
    values = [None, True, 0, 1.5, float("inf"), "1.5", [1, 2], [2, 1], {"a": 1}, {"b": 1}, Way.UP, Way.DOWN, Way, len]
    assert len({known_by(value) for value in values}) == len(values)
    assert identity((1, 2)) == identity([1, 2]) and identity({2, 1}) == [1, 2]
    assert fingerprint(identity({"a": 1, "b": 2})) == fingerprint(identity({"b": 2, "a": 1}))


def scaled(value, by=1.0):
    return value * by


def test_a_partial_is_its_function_and_its_arguments():
    one = partial(scaled, by=2.0)
    assert known_by(one) == known_by(partial(scaled, by=2.0))
    others = (scaled, partial(scaled), partial(scaled, by=3.0), partial(scaled, 1.0, by=2.0), partial(len, by=2.0))
    assert len({known_by(each) for each in (one, *others)}) == 1 + len(others)
    pair = partial(dict, a=1, b=2), partial(dict, b=2, a=1)
    assert known_by(pair[0]) == known_by(pair[1])


class Base:
    @classmethod
    def made(cls):
        return cls()


class One(Base):
    pass


class Two(Base):
    pass


def test_a_class_method_is_its_class_s():
    assert known_by(One.made) == known_by(One.made)
    assert len({known_by(each) for each in (One.made, Two.made, Base.made, One)}) == 4


@dataclass(frozen=True)
class Gain:
    factor: float

    def apply(self, value):
        return self.factor * value


def test_a_method_of_an_object_is_the_object_s():
    assert known_by(Gain(2).apply) == known_by(Gain(2).apply)
    assert len({known_by(each) for each in (Gain(2).apply, Gain(3).apply, Gain(2))}) == 3


# --- what cannot be known ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holding:
    value: object = field(default=None)


class Bare:
    def __init__(self, value):
        self.value = value


UNKNOWABLE = [torch.zeros(2), np.zeros(2), torch.nn.Linear(2, 2), torch.float32, PACKAGE, SimpleNamespace(a=1)]


@pytest.mark.parametrize("holder", [Holding, Bare, lambda value: Holding([value]), lambda value: Bare({"a": value})])
@pytest.mark.parametrize("value", UNKNOWABLE, ids=lambda value: type(value).__name__)
def test_what_holds_no_plain_value_is_refused_in_a_sentence(holder, value):
    with pytest.raises(UserError) as caught:
        identity(holder(value))
    said = str(caught.value)
    assert type(value).__name__ in said and "plain values" in said and "\n" not in said and said.endswith(".")


def test_an_object_s_own_plain_values_are_its_settings():
    assert known_by(Bare(0.5)) == known_by(Bare(0.5)) and known_by(Bare(0.5)) != known_by(Bare(0.6))
    assert "Bare keeps a Tensor in 'value'" in refusal(Bare(torch.zeros(1)))


def refusal(thing) -> str:
    with pytest.raises(UserError) as caught:
        identity(thing)
    return str(caught.value)


# --- a user's code -------------------------------------------------------------------------------------------

RULE = '''
"""Mine."""
import math

from mine_helpers import gain
from maxbench.fusion import Sum


class Mine(Sum):
    """Louder."""

    def merge(self, features):
        # louder by a fixed factor
        return gain() * super().merge(features)


def make():
    return Mine()
'''
HELPERS = '"""Numbers."""\n\nimport mine_numbers as numbers\n\n\ndef gain():\n    return numbers.FACTOR + 1\n'
NUMBERS = "FACTOR = 2\n"


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Writes a user's three modules, the first of which imports the second and that the third; returns identities."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("mine", "mine_helpers", "mine_numbers")

    def write(rule=RULE, helpers=HELPERS, numbers=NUMBERS, load=names[0]):
        for name, text in zip(names, (rule, helpers, numbers), strict=True):
            (tmp_path / f"{name}.py").write_text(text)
        for name in names:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module(load)
        return known_by(module.Mine()), known_by(module.make), known_by(module.Mine)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second would be one
    yield write
    for name in names:
        sys.modules.pop(name, None)


def changed(one, two) -> set[bool]:
    return {first != second for first, second in zip(one, two, strict=True)}


def test_a_user_s_class_is_known_by_its_code(known):
    before = known()
    assert changed(before, known()) == {False}
    assert changed(before, known(RULE.replace("gain() *", "2 * gain() *"))) == {True}


def test_comments_docstrings_and_layout_do_not_count(known):
    before = known()
    said = RULE.replace('"""Louder."""', '"""As loud as it gets."""').replace("# louder by a fixed factor", "# why?")
    laid_out = said.replace("gain() * super().merge(features)", "(gain() * super(  ).merge(\n            features))")
    assert laid_out != RULE and changed(before, known(laid_out + "\n\n")) == {False}
    assert changed(before, known(helpers=HELPERS.replace('"""Numbers."""\n', ""))) == {False}


def test_code_counts_that_is_imported_directly_or_not(known):
    before = known()
    assert changed(before, known(helpers=HELPERS.replace("+ 1", "+ 2"))) == {True}
    assert changed(before, known(numbers="FACTOR = 3\n")) == {True}
    assert changed(before, known(numbers="FACTOR = 2  # as it was\n")) == {False}


def test_code_counts_that_a_function_imports_when_it_is_called(known):
    late = RULE.replace("from mine_helpers import gain\n", "").replace(
        "        # louder", "        from mine_helpers import gain\n\n        # louder"
    )
    before = known(late)
    assert changed(before, known(late, numbers="FACTOR = 3\n")) == {True}


def test_a_package_of_a_user_s_counts_by_its_relative_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    texts = {
        "my_rules/__init__.py": "",
        "my_rules/loud.py": "from .parts import factor\nfrom . import other\n\n\nclass Loud: pass\n",
        "my_rules/parts/__init__.py": "from ..numbers import FACTOR\n\n\ndef factor(): return FACTOR\n",
        "my_rules/numbers.py": "FACTOR = 2\n",
        "my_rules/other.py": "OTHER = 1\n",
        "my_rules/unused.py": "NOTHING = 0\n",
    }

    def write(**changes):
        for name, text in {**texts, **changes}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in [name for name in sys.modules if name.split(".")[0] == "my_rules"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return known_by(importlib.import_module("my_rules.loud").Loud())

    before = write()
    assert write(**{"my_rules/numbers.py": "FACTOR = 3\n"}) != before
    assert write(**{"my_rules/other.py": "OTHER = 2\n"}) != before
    assert write(**{"my_rules/unused.py": "NOTHING = 1\n"}) == before


def test_packages_of_another_environment_are_libraries(tmp_path, monkeypatch):
    """As a .pth file or PYTHONPATH brings them: their code is not followed, whatever it would do."""
    from maxbench.store.identity import _is_users_file, _library_folders

    place = tmp_path / "elsewhere" / "site-packages"
    (place / "a_library").mkdir(parents=True)
    (place / "a_library" / "__init__.py").write_text("")
    file = str(place / "a_library" / "__init__.py")
    for on_path, users in ((False, True), (True, False)):
        if on_path:
            monkeypatch.syspath_prepend(str(place))
        for each in (_library_folders, _is_users_file):
            each.cache_clear()
        assert _is_users_file(file) is users
    monkeypatch.undo()
    for each in (_library_folders, _is_users_file):
        each.cache_clear()


def test_an_import_that_is_for_another_system_is_passed_over(known, tmp_path):
    package = tmp_path / "only_elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('for another system')\n")
    (package / "inner.py").write_text("")
    late = RULE.replace("def make():", "def elsewhere():\n    import only_elsewhere.inner\n\n\ndef make():")
    assert late != RULE
    before = known(late)
    assert changed(before, known(late, numbers="FACTOR = 3\n")) == {True}


def test_a_source_that_is_gone_or_no_python_any_more_is_a_sentence(known, tmp_path):
    known()
    module = sys.modules["mine"]
    (tmp_path / "mine.py").write_text("def half(")
    with pytest.raises(UserError, match=r"mine\.py cannot be read any more"):
        source_digest(module)
    (tmp_path / "mine.py").unlink()
    with pytest.raises(UserError, match=r"mine\.py cannot be read any more"):
        source_digest(module)


def test_a_folder_s_code_is_what_it_does(tmp_path):
    def of(text):
        (tmp_path / "rule.py").write_text(text)
        return code_fingerprint(tmp_path)

    plain = of("def f(x):\n    return x + 1\n")
    assert of('"""Doc."""\n\n\ndef f(x):\n    """Says."""\n    return (x + 1)  # why\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain
    assert of("") != of("pass\n")


# --- nothing that an object holds is overlooked ------------------------------------------------------------------


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Beside(MaxFusion):
    """A plain subclass of a dataclass, with a setting beside the fields."""

    def __init__(self, a):
        super().__init__()
        object.__setattr__(self, "a", a)


@dataclass(frozen=True)
class Hidden(MaxFusion):
    a: InitVar[float] = 0.0

    def __post_init__(self, a):
        object.__setattr__(self, "_a", a)


@pytest.mark.parametrize("kind", [Slotted, Beside, lambda a: Hidden(a=a)])
def test_a_setting_counts_wherever_an_object_keeps_it(kind):
    assert identity(kind(1)) == identity(kind(1)) != identity(kind(5))


def test_a_package_s_own_code_counts_for_its_modules(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("CONSTANT = 1\n")
    (package / "rules.py").write_text("class Theirs:\n    pass\n")
    (tmp_path / "their_rule.py").write_text("import their_package.rules\n\n\nclass Mine:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import their_package.rules
    import their_rule

    before = [source_digest(each) for each in (their_rule, their_package.rules)]
    (package / "__init__.py").write_text("CONSTANT = 2\n")
    after = [source_digest(each) for each in (their_rule, their_package.rules)]
    assert before[0] != after[0] and before[1] != after[1]
    for name in ("their_rule", "their_package", "their_package.rules"):
        sys.modules.pop(name, None)
