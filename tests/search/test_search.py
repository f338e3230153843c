"""`search(config)` from its data to networks for every budget."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prunet_det.latency import predict
from prunet_det.search import SearchResult, api, pricing, search
from prunet_det.search import finalists as last_tier
from prunet_det.search import hooks as accompany
from prunet_det.search.architecture import Architecture
from prunet_det.search.finalists import FinalistSettings
from prunet_det.search.loop import SearchLoop
from prunet_det.utils.errors import UserError
from tests.search.conftest import in_two_processes

BUDGETS = (0.24, 0.27)
NO_FINALISTS = FinalistSettings(iterations=(), kept=())


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory) -> SearchResult:
    """A search for two budgets, to its end."""
    return search(tiny(tmp_path_factory.mktemp("found"), budgets_ms=BUDGETS))


def files(folder) -> dict[str, bytes]:
    """What a search must give again: networks and their weights."""
    names = ("arch.json", "tiers.json", "weights.safetensors")
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for n in names for p in folder.rglob(n)}


def test_every_budget_has_a_network_that_meets_it(found):
    assert list(found.networks) == list(BUDGETS) and found.accepted
    for ms, network in found.networks.items():
        predicted = predict(network.spec, "v100", 1, 256).latency.ms
        assert 0.97 * ms <= predicted <= ms and predicted == pytest.approx(network.ms)
        net = network.build()
        assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 2)
        assert network.final and network.tiers is not None
        assert {f["name"] for f in network.figures["finalists"]} >= {"tiers", "evolution 1"}


def test_what_lies_in_the_folder_is_the_result(found):
    again = SearchResult.load(found.folder)
    for ms, network in found.networks.items():
        assert again.networks[ms].spec == network.spec
        assert again.networks[ms].to_dict() == json.loads(json.dumps(network.to_dict()))
    run = again.run
    assert set(run["seconds"]) >= {"warm-up", "paths", "tiers", "evolution", "last tier"}
    assert set(run["hashes"]) >= {"space (digest)", "prices (digest)", "data (digest)"}
    text = (found.folder / "report.md").read_text()
    for name in ("curve", "0.24ms/widths", "0.27ms/tiers"):
        assert f"({name}.png)" in text and (found.folder / f"{name}.png").is_file()
    assert "### The last tier" in text and list(found.folder.glob("*tfevents*"))


def test_a_network_says_what_it_comes_from(found):
    details = found.networks[0.27].spec.provenance.details
    assert details["budget"]["latency_ms"] == 0.27 and details["budget"]["device"] == "v100"
    assert details["data"] == {"name": "digits", "classes": 2} and details["seed"] == 0
    assert set(details["hashes"]) == {"config", "space", "table", "data"}


class Killed(Exception):
    """In the place of SIGKILL."""


@pytest.fixture
def killed(monkeypatch, tiny, tmp_path):
    """Runs a search that dies in a function's n-th call, and resumes it to its end."""

    def run(owner, name, call) -> dict[str, bytes]:
        function, calls = getattr(owner, name), []

        def dies(*args, **options):
            calls.append(name)
            if len(calls) == call:
                raise Killed
            return function(*args, **options)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, dies)
            search(tiny(tmp_path, budgets_ms=BUDGETS))
        assert (tmp_path / "search.pth").is_file()
        monkeypatch.setattr(api, "write_report", lambda *_: None)  # which takes the most time
        search(tiny(tmp_path, budgets_ms=BUDGETS, resume=True))
        return files(tmp_path)

    return run


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        pytest.param(SearchLoop, "_run_step", 3, marks=pytest.mark.slow, id="warm-up"),
        pytest.param(SearchLoop, "_run_step", 6, marks=pytest.mark.slow, id="paths"),
        pytest.param(accompany, "evolve", 2, marks=pytest.mark.slow, id="evolution"),
        pytest.param(SearchLoop, "_run_step", 9, id="tiers"),
        pytest.param(last_tier, "short_run", 1, marks=pytest.mark.slow, id="finalists"),
        pytest.param(last_tier, "short_run", 9, id="finalists of the second budget"),
    ],
)
def test_a_search_that_was_killed_goes_on_to_the_same_bytes(found, killed, owner, name, call):
    assert killed(owner, name, call) == files(found.folder)


def test_ctrl_c_leaves_a_result_and_a_checkpoint(tiny, tmp_path, monkeypatch):
    run_step = SearchLoop._run_step

    def interrupted(loop):
        if loop.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        run_step(loop)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SearchLoop, "_run_step", interrupted)
        search(tiny(tmp_path))
    (network,) = SearchResult.load(tmp_path).networks.values()
    assert network.accepted and not network.final and network.chooser == "tiers"
    assert "does not meet" not in (tmp_path / "report.md").read_text()
    (network,) = search(tiny(tmp_path, resume=True)).networks.values()
    assert network.final


def test_a_last_tier_that_is_interrupted_leaves_what_the_tiers_chose(tiny, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(last_tier, "short_run", interrupt)
        search(tiny(tmp_path))
    (network,) = SearchResult.load(tmp_path).networks.values()
    assert network.accepted and not network.final and network.weights is not None


def test_a_further_budget_takes_no_step_of_the_weights(tiny, tmp_path, monkeypatch):
    first = search(tiny(tmp_path, finalists=NO_FINALISTS))
    before = torch.load(tmp_path / "search.pth", weights_only=True)["loop"]["weights"]["supernet"]
    kept = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(SearchLoop, "_run_step", None)
        config = tiny(tmp_path, budgets_ms=(0.25,), finalists=NO_FINALISTS, resume=True)
        both = search(dataclasses.replace(config, command="python again"))
    assert list(both.networks) == [0.25, 0.26] and both.accepted
    command = both.networks[0.25].spec.provenance.details["command"]
    asked = f"{first.run['command']} --out DIR && python again --resume --out DIR"
    assert command == asked
    assert both.run["command"] == command
    after = torch.load(tmp_path / "search.pth", weights_only=True)["loop"]["weights"]["supernet"]
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {name: files(tmp_path)[name] for name in kept} == kept
    config = tiny(tmp_path, budgets_ms=(0.24,), finalists=NO_FINALISTS, resume=True)
    three = search(dataclasses.replace(config, command="python once more"))
    assert list(three.networks) == [0.24, 0.25, 0.26]
    assert three.run["command"] == f"{asked} && python once more --resume --out DIR"


def test_further_budgets_are_refused_before_the_first_is_chosen_for(found, tiny, monkeypatch):
    """The space meets the last one, what is left of the supernet does not."""

    def restrict(architecture, _):
        if architecture.budget_ms == 0.26:
            raise UserError("0.26 ms cannot be met")

    monkeypatch.setattr(Architecture, "restrict", restrict)
    monkeypatch.setattr(SearchLoop, "add", None)
    with pytest.raises(UserError, match="0.26 ms cannot"):
        search(tiny(found.folder, budgets_ms=(0.25, 0.26), resume=True))


def test_a_search_is_not_overwritten_nor_resumed_as_another(found, tiny, tmp_path):
    with pytest.raises(UserError, match="holds a search already"):
        search(tiny(found.folder, budgets_ms=BUDGETS))
    with pytest.raises(UserError, match=r"another seed \(0, not 1\)"):
        search(tiny(found.folder, budgets_ms=BUDGETS, seed=1, resume=True))
    other = dataclasses.replace(tiny(tmp_path).search, tiers=5)
    with pytest.raises(UserError, match=r"another config \(digest\)"):
        search(tiny(found.folder, budgets_ms=BUDGETS, search=other, resume=True))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="a result without a checkpoint"):
        search(tiny(tmp_path))


def test_a_damaged_network_is_made_anew(found, tiny, tmp_path, caplog):
    folder = tmp_path / "copy"
    shutil.copytree(found.folder, folder)
    (folder / "0.24ms" / "weights.safetensors").write_bytes(b"half")
    (folder / "0.27ms" / "run.json").write_text("{")
    assert search(tiny(folder, budgets_ms=BUDGETS, resume=True)).lines == found.lines
    assert files(folder) == files(found.folder)
    for ms in BUDGETS:
        assert f"The network for {ms} ms is made anew." in caplog.text


def test_another_device_is_said_before_its_budgets(found, tiny):
    """A budget of the search that another device cannot meet is not what is wrong."""
    a100 = dataclasses.replace(tiny(found.folder).pricing, device="a100")
    config = tiny(found.folder, budgets_ms=(0.13,), pricing=a100, resume=True)
    with pytest.raises(UserError, match=r"another device \(v100, not a100\)"):
        search(config)


def test_an_unfinished_search_takes_no_other_budgets(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(SearchLoop, "_draw", None)
        search(tiny(tmp_path))
    with pytest.raises(UserError, match=r"is for 0\.26 ms and has not ended"):
        search(tiny(tmp_path, budgets_ms=(0.25,), resume=True))


@pytest.mark.parametrize("off", [("widths", "evolution"), ("candidates", "layers", "surrogate")])
def test_parts_switched_off(tiny, tmp_path, off):
    result = search(tiny(tmp_path, off=off))
    names = {f["name"].split()[0] for f in result.networks[0.26].figures["finalists"]}
    assert ("evolution" in names) is ("evolution" not in off)
    assert ("surrogate" in names) is ("surrogate" not in off)
    text = (tmp_path / "report.md").read_text()
    assert ("loses" in text or "is skipped" in text) <= ("layers" not in off)
    assert result.run["off"] == list(off) and result.accepted


def test_the_mixture_and_no_last_tier(tiny, tmp_path):
    (tmp_path / "measured.json").write_text("{}")  # a former search's
    settings = dataclasses.replace(tiny(tmp_path).search, weights="mixture")
    result = search(tiny(tmp_path, search=settings, off=("finalists",)))
    network = result.networks[0.26]
    assert network.chooser == "tiers" and network.spec == network.tiers
    assert result.run["weights"] == "mixture"
    assert not (tmp_path / "measured.json").exists()


def test_without_tiers_evolution_chooses_still(tiny, tmp_path, monkeypatch):
    """Also where a checkpoint was written at its last step, and evolution was killed."""
    settings = dataclasses.replace(tiny(tmp_path).search, tiers=0)

    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(accompany, "evolve", dies)
        search(tiny(tmp_path, search=settings))
    assert torch.load(tmp_path / "search.pth", weights_only=True)["loop"]["step"] < 6
    result = search(tiny(tmp_path, search=settings, resume=True))
    assert "evolution 1" in {f["name"] for f in result.networks[0.26].figures["finalists"]}


@pytest.mark.parametrize("ms", [0.01, 5.0])
def test_an_impossible_budget_is_refused_before_data_are_read(tiny, tmp_path, ms):
    with pytest.raises(UserError, match="cannot be met: the space reaches"):
        search(tiny(tmp_path, budgets_ms=(ms,), data=dict(dataset={})))
    assert not list(tmp_path.iterdir())


def test_own_images(tiny, tmp_path):
    """An ImageFolder, a subset of its classes."""
    from PIL import Image

    for name in "abc":
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for i in range(8):
            colour = (30 * i, 80, 40 * "abc".index(name))
            Image.new("RGB", (20, 20), colour).save(tmp_path / f"data/train/{name}/{i}.png")
    data = tiny(tmp_path).data["dataset"]
    own = dict(type="ImageFolder", data_root=str(tmp_path / "data"), split="train")
    config = tiny(
        tmp_path / "out",
        data=dict(dataset=dict(own, transform=data["transform"]), classes=["a", "c"]),
        off=("finalists",),
    )
    search(config)
    weights = load_file(tmp_path / "out" / "0.26ms" / "weights.safetensors")
    assert weights["classifier.weight"].shape[0] == 2
    with pytest.raises(UserError, match="there is no class 'x'"):
        search(
            dataclasses.replace(config, data={**config.data, "classes": ["x", "a"]}, resume=True)
        )


def price_as_one_of_two(rank: int, folder: Path) -> None:
    """What each process of the test below does."""
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)

    class Pricing:
        def costs(self, space, input_size):
            assert rank == 0, "only the main process may measure"
            raise ValueError("no clock here")

    try:
        pricing.price_in_turn(Pricing(), None, 64)
    except Exception as e:
        (folder / str(rank)).write_text(f"{type(e).__name__}: {e}")


@pytest.mark.slow
def test_no_process_waits_for_a_main_process_that_failed(tmp_path):
    main, other = in_two_processes(price_as_one_of_two, tmp_path)
    assert main == "ValueError: no clock here"
    assert other == "UserError: the main process could not price the space: no clock here"
