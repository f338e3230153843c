"""What a search is asked for: read from a file, overridden, refused."""

from __future__ import annotations

import shlex

import pytest

from prunet_det.search import SearchConfig
from prunet_det.utils.errors import InputError, UserError

QUICK = "search/quick.py"


def read(**asked) -> SearchConfig:
    return SearchConfig.from_file(QUICK, **{"budget_ms": 0.5, "progress": False, **asked})


def test_a_config_is_a_file_and_what_is_asked_for():
    config = read(budget_ms=[0.8, 0.5], seed=3, device="a100", batch=8, off=("layers",))
    assert config.budgets_ms == (0.5, 0.8) and config.config == "configs/search/quick.py"
    assert (config.pricing.device, config.pricing.batch) == ("a100", 8)
    assert (config.seed, config.off, config.tiers.layers) == (3, ("layers",), True)
    assert config.out.endswith("quick_seed3") and not config.pricing.progress
    assert [config.name_of(ms) for ms in config.budgets_ms] == [
        "prunet_search_0.5ms",
        "prunet_search_0.8ms",
    ]


def test_one_part_name_or_class_is_given_by_itself():
    config = read(budget_ms=0.5, off="widths", names="mine", classes="3")
    assert (config.off, config.names, config.data["classes"]) == (("widths",), ("mine",), 3)
    same = read(budget_ms=[0.5], off=["widths"], names=["mine"], classes=3)
    assert config.command == same.command


def test_the_order_of_what_is_switched_off_makes_no_other_search():
    one, other = (
        read(budget_ms=0.5, off=off) for off in (("layers", "widths"), ("widths", "layers"))
    )
    assert one.identity == other.identity


def test_names_follow_their_budgets():
    config = read(budget_ms=[0.8, 0.5], names=("large", "small"))
    assert config.name_of(0.5) == "small" and config.name_of(0.8) == "large"


def test_a_command_gives_the_same_config_again():
    given = dict(seed=2, device="a100", off=("evolution", "finalists"), classes=["0", "3"])
    config = read(budget_ms=[0.65, 0.5], options={"tiers.rate": 0.4}, **given, out="x", resume=True)
    words = shlex.split(config.command)
    assert words[:2] == ["python", "tools/search_backbone.py"]
    assert "--out" not in words and "--resume" not in words
    again = SearchConfig.from_file(
        words[2],
        budget_ms=[float(ms) for ms in words[4:6]],
        options={"tiers.rate": 0.4},
        **given,
        progress=False,
    )
    assert again.command == config.command and again.identity == config.identity
    assert read().identity != config.identity


def test_other_data(tmp_path):
    data = read(data=tmp_path, classes=["4"]).data
    assert data["dataset"]["type"] == "ImageFolder" and data["classes"] == 4
    assert data["dataset"]["transform"] == read().data["dataset"]["transform"]


def test_own_data_are_searched_on_as_a_whole(tmp_path):
    given = [
        SearchConfig.from_file("search/prunet.py", budget_ms=0.5, data=folder).data.get("span")
        for folder in (None, tmp_path)
    ]
    assert given == [(0.0, 0.8), None]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"budget_ms": []}, "budgets must be milliseconds above 0, got none"),
        ({"budget_ms": [0.5, float("nan")]}, "above 0, got 0.5, nan"),
        ({"budget_ms": "0.5"}, "milliseconds above 0, got '0.5'"),
        ({"budget_ms": None}, "milliseconds above 0, got None"),
        ({"budget_ms": [0.5, 0.5]}, "given twice"),
        ({"options": {"optim_wrapper.type": "AmpOptimWrapper"}}, "give --amp"),
        ({"options": {"optim_wrapper.accumulative_counts": 2}}, "without accumulative_counts"),
        ({"budget_ms": [0.5, 0.50000001]}, r"at most six digits.* got 0\.50000001; give 0\.5\."),
        ({"input_size": 0}, "the input size must be a positive integer"),
        ({"seed": -1}, "the seed must be 0 or more"),
        ({"off": ("layer",)}, "must be of widths, candidates, layers"),
        ({"options": {"search.weights": "path"}}, "weights must be"),
        ({"names": ("a", "b")}, "a name for each of the 1 budgets, got 2"),
        ({"names": ("a/b",)}, r"without / and"),
        ({"sed": 1}, "unknown key 'sed'.*Did you mean 'seed'"),
        ({"options": {"search.when": 1}}, "when"),
        ({"options": {"tiers.rates": 1}}, "tiers.*rates"),
        ({"options": {"tiers.rate": "fast"}}, "rate must be a finite number, got 'fast'"),
        ({"options": {"evolution.evaluations": 0}}, "evaluations must be a positive integer"),
        ({"options": {"space.kind": ("conv",)}}, "kind.*[Dd]id you mean"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_refusals(change, sentence):
    with pytest.raises(UserError, match=sentence):
        read(**change)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = (", "is no valid config"),
        ("data = dict()", "is no search config: it has no `space` or no `data`"),
        ("space = dict(stem=8)\ndata = dict()\ntier = dict()", "Did you mean 'tiers'"),
        ("space = dict(stem=8)\ndata = dict()\nsearch = 3", "expected an object with keys"),
    ],
)
def test_files_that_are_no_search(tmp_path, text, sentence):
    path = tmp_path / "c.py"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        SearchConfig.from_file(path, budget_ms=0.5)
