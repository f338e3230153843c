"""Published accuracies beside latencies: what is chosen, kept, said and drawn."""

from __future__ import annotations

import pytest
import timm
import torch

from prunet_det.benchmark import imagenet
from prunet_det.benchmark import imagenet_report as report
from prunet_det.benchmark.imagenet import Entry, Network, Source
from prunet_det.benchmark.plot import draw_published
from prunet_det.benchmark.published import Classifier, classifiers, timm_classifiers
from prunet_det.latency import load_device, predict, predict_module
from prunet_det.latency.record import Conditions, Latency
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import read_csv

CONDITIONS = Conditions(device="x", runtime="tensorrt", precision="fp16")


def latency(name, px, ms, band=0.1):
    return Latency(
        model=name,
        input_size=px,
        scope="classifier",
        conditions=CONDITIONS,
        ms=ms,
        low=ms / (1 + band),
        high=ms * (1 + band),
        kind="predicted",
    )


def source(times, constants="1"):
    """Latencies by name; a text is a failure, an exception is raised."""

    def latencies(networks):
        for network in networks:
            found = times[network.name]
            if isinstance(found, BaseException):
                raise found
            yield network, found if isinstance(found, str) else latency(*network, found)

    return Source(name="x", conditions="predicted", constants=constants, latencies=latencies)


def entry(model, family, top1, ms, px=224, **details):
    c = Classifier(
        model=model, family=family, input_size=px, top1=top1, source="planted", **details
    )
    return Entry(classifier=c, latency=latency(model, px, ms))


ENTRIES = [
    entry("a.x", "other", 79.0, 0.5),
    entry("prunet_p0", "prunet", 80.3, 0.6, teacher="b2"),
    entry("b.x", "other", 80.4, 0.7),
    entry("c.big", "other", 84.0, 0.8, extra_data=True),
    entry("prunet_p1", "prunet", 81.1, 0.95),
    entry("gpunet_1", "gpunet", 81.2, 0.9),
]


def test_every_accuracy_has_a_network_and_a_source():
    ours, theirs = classifiers(), timm_classifiers()
    assert len(theirs) == 269 and all("aa4b5850" in c.source for c in theirs)
    assert {c.model: c.top1 for c in ours}["prunet_p1"] == 81.1
    assert {c.model for c in ours if c.teacher} == {
        *("prunet_p0", "prunet_p1", "gpunet_d1", "gpunet_d2")
    }
    assert all(timm.is_model(c.architecture) for c in [*ours, *theirs])
    families = {c.architecture: c.family for c in theirs}
    assert families["tf_efficientnet_b3"] == "efficientnet"
    assert families["tf_efficientnetv2_b3"] == families["tf_efficientnet_lite0"] == "other"


def test_networks_are_chosen_by_name_and_pattern():
    usual = imagenet.choose()
    assert len(usual) == len({c.architecture for c in usual}) == 95
    chosen = {c.architecture: c for c in usual}
    assert (chosen["resnet18"].model, chosen["resnet18"].input_size) == ("resnet18.a1_in1k", 288)
    assert chosen["hgnetv2_b0"].extra_data  # there is no training of it without
    some = imagenet.choose(["resnet18*", "prunet_p0", "resnet18.a1_in1k"])
    sizes = [(c.model, c.input_size) for c in some]
    assert sizes == [
        ("resnet18.a3_in1k", 160),
        ("resnet18.a1_in1k", 224),
        ("resnet18.fb_swsl_ig1b_ft_in1k", 224),
        ("resnet18.a1_in1k", 288),
        ("prunet_p0", 224),
    ]
    (named,) = imagenet.choose(["efficientnet_b0.ra_in1k"])  # another one is more accurate
    assert named.model == "efficientnet_b0.ra_in1k"
    with pytest.raises(InputError, match="is called 'resnet9'"):
        imagenet.choose(["resnet9"])


def test_a_failure_is_a_row_and_a_record_goes_on(tmp_path):
    chosen = imagenet.choose(["gpunet_0", "prunet_p?"])
    stopped = source({"gpunet_0": "too odd.", "prunet_p0": 0.6, "prunet_p1": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        imagenet.collect(chosen, tmp_path, stopped, "once")
    rows = read_csv(tmp_path / "x.csv")[1]
    assert [(r["model"], r["failed"]) for r in rows] == [
        ("prunet_p0", ""),
        ("gpunet_0", "too odd."),
    ]
    assert "NVIDIA" in rows[0]["source"] and rows[0]["latency_ms"] == "0.6"
    left = source({"gpunet_0": 0.7, "prunet_p1": 0.9})  # p0 is not asked for again
    path, entries = imagenet.collect(chosen, tmp_path, left, "again")
    assert [e.latency.ms for e in entries] == [0.6, 0.7, 0.9]
    again = imagenet.read_entries(path)[1]
    assert [(e.network, e.latency.ms) for e in again] == [
        (e.network, e.latency.ms) for e in entries
    ]
    with pytest.raises(UserError, match="of other constants"):
        imagenet.collect(chosen, tmp_path, source({}, constants="2"), "again")


def test_the_verdict_follows_the_entries():
    text = " ".join(report.verdict(ENTRIES))
    assert "Of 5 networks and resolutions trained without extra data, 4 are on the front" in text
    assert "PruNet: prunet_p0; GPUNet: gpunet_1; others (timm): a, b" in text
    assert (
        "p0 (80.3 % at 0.6 ms) is on the front: the next network that is as accurate, b at 224"
        in text
    )
    assert "takes 17 % longer, within the error of the predictions" in text
    assert (
        "prunet_p1 (81.1 % at 0.95 ms) is not on the front: gpunet_1 at 224 px has 81.2 % at 0.9 ms"
        in text
    )
    assert "may be off by up to 10 %" in text and "c would be on the front" in text
    assert "to which the model is fitted" not in text  # there are no published times of "x"
    rows = {row[0]: row for row in report.rows(ENTRIES)}
    assert rows["prunet_p0"][6:] == ["all, PruNet", "distillation (b2)"]
    assert "c.big" not in rows


def test_only_networks_on_a_front_are_named_in_the_figure():
    slow = [entry(f"d{i}.x", "other", 78.0, 1.0 + i) for i in range(9)]
    figure = draw_published(*report.figure_data([*ENTRIES, *slow]))
    named = {text.get_text() for text in figure.axes[0].texts} - {""}
    assert named == {"a 224", "b 224", "prunet_p0 224", "prunet_p1 224", "gpunet_1 224"}


def test_without_a_front_there_is_a_figure_and_a_sentence():
    entries = [entry("c.big", "other", 84.0, 0.8, extra_data=True)]
    assert draw_published(*report.figure_data(entries)).axes[0].get_ylim()[0] < 84
    assert "so there is no front.\nNetworks trained on extra" in report.text(entries)


def test_predictions_are_of_networks_as_deployed():
    """Without the branches of training, and with the wide band where the family is another."""
    networks = [Network("mobileone_s1", 64), Network("prunet_p0", 224)]
    source = imagenet.predicted("v100", batch=2)
    merged, ours = (found for _, found in source.latencies(networks))
    with torch.device("meta"):
        branched = timm.create_model("mobileone_s1")
    assert merged.ms < predict_module(branched, "m", batch=2, input_size=64).latency.ms / 1.8
    assert ours == predict("prunet_p0", batch=2, scope="classifier").latency
    band = load_device("v100").provenance["band"]
    assert [f.high / f.ms - 1 for f in (merged, ours)] == pytest.approx(
        [band["outside"], band["inside"]]
    )


def test_what_has_no_price_says_so():
    network = Network("fastvit_sa12", 64)
    (found,) = imagenet.predicted("v100").latencies([network])
    assert found[0] == network and "scaled_dot_product_attention" in found[1]


def test_measured_networks_are_timed_a_few_at_a_time():
    conditions = Conditions(device="here", runtime="eager", precision="fp32", threads=1)
    here = imagenet.measured(conditions, "cpu", seconds=0.01)
    networks = [Network("prunet_demo", 32), Network("mobileone_s1", 32), Network("nothing", 32)]
    found = dict(here.latencies(networks))
    assert found[networks[0]].kind == found[networks[1]].kind == "measured"
    assert "no network 'nothing'" in found[networks[2]]


@pytest.mark.parametrize("broken", ["load_subject", "reparameterize_model", "timm_network"])
def test_what_one_network_raises_is_its_own_failure(broken, monkeypatch):
    usual = getattr(imagenet, broken)

    def fails_once(*args, **kwargs):
        monkeypatch.setattr(imagenet, broken, usual)
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(imagenet, broken, fails_once)
    conditions = Conditions(device="here", runtime="eager", precision="fp32", threads=1)
    predicted = broken == "timm_network"
    here = (
        imagenet.predicted("v100")
        if predicted
        else imagenet.measured(conditions, "cpu", seconds=0.01)
    )
    first, second = Network("resnet18", 32), Network("resnet18", 64)
    found = dict(here.latencies([first, second]))
    assert found[first] == "RuntimeError: CUDA error: out of memory"
    assert found[second].kind == ("predicted" if predicted else "measured")
