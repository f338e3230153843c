"""ArchSpec: what it holds, what it refuses, and that JSON brings back the same."""

from __future__ import annotations

import copy
import json

import pytest

from prunet_det import ArchSpec, BlockSpec, SpecError, load_spec, model_names


@pytest.mark.parametrize("name", model_names())
def test_json_round_trip(name, tmp_path):
    spec = load_spec(name)
    spec.save(tmp_path / "arch.json")
    assert ArchSpec.load(tmp_path / "arch.json") == spec
    assert (tmp_path / "arch.json").read_text() == spec.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["arch.json"]


@pytest.mark.parametrize("name", model_names())
def test_provenance_is_stated(name):
    provenance = load_spec(name).provenance
    key = {"published": "source", "searched": "command", "hand-written": "reason"}[provenance.kind]
    assert provenance.details[key]


def test_prunet_p0_hidden_widths_are_the_published_integers():
    hidden = [b.hidden for b in load_spec("prunet_p0").blocks]
    assert hidden == [0, 0, 0, 512, 736, 736, 736, 1088, 1216, 2048, 2688, 2368, 1792, 4032]


def edit(path, value):
    """The demo spec as a dict with one place changed; a value of ... removes the key."""
    data = copy.deepcopy(load_spec("prunet_demo").to_dict())
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


BLOCK = ("stages", 2, "blocks", 0)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("schema",), 2, "schema 2 is not known"),
        (("depth",), 3, "unknown key 'depth'"),
        (("name",), "", "needs a name"),
        (("tail",), ..., "'tail' is missing"),
        (("stages",), [], "no stages"),
        (("stages", 0, "blocks"), [], "stage without blocks"),
        (("stages",), "all", "expected a list"),
        (("stem", "widths"), [16.5], "must be an integer"),
        (("crop_pct",), 1.5, "crop_pct must lie in"),
        (("input_size",), "big", "input_size must be an integer"),
        ((*BLOCK, "hiden"), 64, "Did you mean 'hidden'"),
        ((*BLOCK, "kind"), "mbconv", "kind must be one of conv, irb, fused_irb"),
        ((*BLOCK, "hidden"), 96.5, "hidden must be an integer"),
        ((*BLOCK, "hidden"), True, "hidden must be an integer"),
        ((*BLOCK, "hidden"), 0, "at least 1"),
        ((*BLOCK, "kernel"), 4, "kernel must be odd"),
        ((*BLOCK, "stride"), 3, "stride must be 1 or 2"),
        ((*BLOCK, "se"), 4096, "wider than hidden"),
        ((*BLOCK, "act"), "gelu", "act must be one of"),
        ((*BLOCK, "in_chs"), 33, "takes 33 channels"),
        ((*BLOCK, "out_chs"), 33, "the two must be equal"),
        (("provenance", "kind"), "guessed", "kind must be one of"),
        (("provenance", "details"), {}, "must say its reason"),
    ],
)
def test_refusals_are_sentences(path, value, sentence):
    with pytest.raises(SpecError, match=sentence):
        ArchSpec.from_dict(edit(path, value))


def test_conv_blocks_have_no_inner_width():
    with pytest.raises(SpecError, match="no hidden width"):
        BlockSpec("conv", 8, 8, hidden=16)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "\xff"])
def test_damaged_files_name_the_file(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SpecError, match=r"broken\.json"):
        ArchSpec.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no spec file"):
        ArchSpec.load(tmp_path / "none.json")


def test_defaults_stay_out_of_the_file():
    block = json.loads(load_spec("prunet_p0").to_json())["stages"][0]["blocks"][0]
    assert block == {"kind": "conv", "in_chs": 32, "out_chs": 32}
