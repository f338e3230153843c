"""Tables of blocks: they add up, resume, keep to their device, and refuse what they do not hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import prunet_det
from prunet_det import BlockSpec
from prunet_det.latency import device_names, load_device, predict
from prunet_det.latency.block_timer import GROUP, BlockTimer, is_chainable, measure_table
from prunet_det.latency.calibrate import calibrate_to_table
from prunet_det.latency.check import Check, check_table, random_networks, summaries
from prunet_det.latency.device import FITTED
from prunet_det.latency.kernels import block_kernels
from prunet_det.latency.measure import Measurement, local_conditions
from prunet_det.latency.record import Failure, Latency
from prunet_det.latency.stopwatch import Timing
from prunet_det.latency.table import (
    Entry,
    Table,
    TableError,
    network_blocks,
    predict_table,
    variants,
)

DEMO = prunet_det.load_spec("prunet_demo")
BLOCK = BlockSpec("irb", 16, 16, hidden=64)
WIDE = BlockSpec("fused_irb", 32, 32, hidden=128)
SIZE = (32, 32)


def measured(entries=None, **changes):
    conditions = local_conditions("cpu", "onnxruntime", "fp32", threads=1)
    return Table(replace(conditions, **changes), "measured", entries)


def entry(ms, overhead=0.0):
    return Entry(ms, 0.9 * ms, 1.1 * ms, overhead)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("device", device_names())
def test_predicted_blocks_add_up_to_the_prediction(device, batch):
    """A table never falls with the width, but time does where padding becomes superfluous."""
    pads = load_device(device).fusion.multiple > 1
    for name in prunet_det.model_names():
        spec = prunet_det.load_spec(name)
        table = predict_table(network_blocks(spec, 512), device, batch)
        expected = predict(spec, device, batch, 512).latency.ms
        assert table.network_ms(spec, 512) == pytest.approx(expected, rel=2e-3 if pads else 1e-6)


def test_a_file_holds_everything(tmp_path):
    table = predict_table(network_blocks(DEMO, 256), "a100")
    table.save(tmp_path / "table.json")
    again = Table.load(tmp_path / "table.json")
    assert (again.entries, again.title) == (table.entries, table.title)


def test_monotone_in_the_width_and_linear_between():
    widths = {32: 1.0, 64: 1.4, 96: 1.2, 128: 2.0}
    table = measured({(replace(BLOCK, hidden=h), SIZE): entry(ms) for h, ms in widths.items()})

    def ms(hidden):
        return table.ms(replace(BLOCK, hidden=hidden), SIZE)

    assert [ms(h) for h in (32, 64, 96, 128)] == pytest.approx([1.0, 1.3, 1.3, 2.0])
    assert ms(48) == pytest.approx(1.15) and ms(112) == pytest.approx(1.65)
    table.add((replace(BLOCK, hidden=160), SIZE), entry(3.0))
    assert ms(160) == 3.0
    with pytest.raises(TableError, match="inner widths from 32 to 160; 192 lies outside"):
        ms(192)
    with pytest.raises(TableError, match="no block like irb 16->16, kernel 5, stride 1"):
        table.ms(replace(BLOCK, kernel=5), SIZE)
    with pytest.raises(TableError, match="no block like"):
        table.ms(BLOCK, (16, 16))
    with pytest.raises(TableError, match="no first block"):
        table.network_ms(DEMO, 256)


def test_variants_cover_kinds_kernels_and_widths():
    keys = network_blocks(DEMO, 256)
    found = variants(keys, 9)
    assert set(keys) <= set(found) and len(found) >= 200
    at = [b for b, size in found if (b.in_chs, b.out_chs, size) == (48, 48, (32, 32))]
    assert {(b.kind, b.kernel) for b in at} == {
        (kind, k) for kind in ("irb", "fused_irb") for k in (3, 5)
    }
    assert len({b.hidden for b in at}) >= 9


def test_a_table_of_another_device_is_refused_unless_forced(tmp_path):
    table = measured({(BLOCK, SIZE): entry(1.0)}, device="NVIDIA Jetson Orin", threads=0)
    table.save(tmp_path / "table.json")
    with pytest.raises(TableError, match="was measured on NVIDIA Jetson Orin; this machine has"):
        Table.load(tmp_path / "table.json")
    assert Table.load(tmp_path / "table.json", force=True).entries == table.entries


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 9, "conditions": {}}', '{"schema": 1, "entries": [1]}']
)
def test_damaged_files_are_refused(text, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(TableError, match="is no latency table"):
        Table.load(path)
    with pytest.raises(FileNotFoundError, match="there is no latency table"):
        Table.load(tmp_path / "other.json")


class Clockwork(BlockTimer):
    """A timer that needs no time and stops after a number of blocks."""

    def __init__(self, stop_after=None, **kwargs):
        super().__init__(local_conditions("cpu", **{"threads": 1, **kwargs}))
        self.measured, self.stop_after = [], stop_after

    def measure(self, keys):
        if len(self.measured) == self.stop_after:
            raise KeyboardInterrupt
        self.measured += keys
        return {key: entry(0.01 * (self.measured.index(key) + 1)) for key in keys}, {}


def test_measuring_resumes_where_it_stopped(tmp_path):
    path = tmp_path / "table.json"
    keys = network_blocks(DEMO, 256)
    first = Clockwork(stop_after=GROUP)
    with pytest.raises(KeyboardInterrupt):
        measure_table(keys, path, first, progress=False)
    second = Clockwork()
    table = measure_table(keys, path, second, progress=False)
    assert first.measured + second.measured == keys
    assert Table.load(path).entries == table.entries
    with pytest.raises(TableError, match="is of other conditions .*2 threads.*give another --out"):
        measure_table(keys, path, Clockwork(threads=2), progress=False)
    data = json.loads(path.read_text())["conditions"]
    assert {"device", "driver", "runtime", "precision", "batch", "versions", "date"} <= data.keys()
    assert data["versions"]["torch"] and data["date"]


class AdditionCounter(TorchDispatchMode):
    """Counts the additions that are operators of their own."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "aten::add"
        return func(*args, **(kwargs or {}))


class Counted(BlockTimer):
    """A timer whose clock counts: a multiply-accumulate is a nanosecond, an addition of two maps
    takes ADDITION ms."""

    ADDITION = 0.01

    def time(self, tasks):
        found = []
        for task in tasks:
            additions = AdditionCounter()
            with FlopCounterMode(display=False) as counter, additions:
                task.run()
            ms = counter.get_total_flops() / 2e6 + self.ADDITION * additions.count
            found.append(Timing((ms,) * 11))
        return found


@pytest.mark.parametrize(
    "block",
    [WIDE, BlockSpec("fused_irb", 32, 48, stride=2, hidden=128)],
    ids=["chained", "side by side"],
)
def test_a_block_is_measured_apart_from_its_network(block):
    """What the network around it costs, and the sum of blocks side by side, is not the block's."""
    timer = Counted(local_conditions("cpu", "channels_last", threads=1))
    key = (block, (48, 48))
    found = timer.measure([key])[0][key]
    macs = sum(k.macs for k in block_kernels(block, (48, 48)))
    residual = block.has_residual * timer.ADDITION
    assert found.ms == pytest.approx(macs / 1e6 + residual)
    assert found.low_ms == found.ms == found.high_ms
    assert found.overhead_ms == pytest.approx(0)


def test_a_block_in_onnx_runtime():
    timer, key = BlockTimer(local_conditions("cpu", threads=1), seconds=0.05), (WIDE, (48, 48))
    found = timer.measure([key])[0][key]
    assert 0 < found.low_ms <= found.ms <= found.high_ms and found.overhead_ms >= 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_blocks_and_networks_of_a_table_on_a_gpu():
    """Made on the device: a wide block's weights would take a CPU seconds."""
    timer = BlockTimer(local_conditions("cuda"), "cuda", seconds=0.01)
    table = timer.table()
    keys = network_blocks(DEMO, 64)
    entries, failed = timer.measure(keys)
    assert not failed and len(entries) == len(set(keys))
    for key, entry in entries.items():
        table.add(key, entry)
    (check,) = check_table(table, random_networks(table, 1), device="cuda", seconds=0.01)
    assert not isinstance(check.measured, Failure)


def test_what_can_be_chained():
    assert is_chainable(BLOCK)
    assert not is_chainable(replace(BLOCK, stride=2))
    assert not is_chainable(replace(BLOCK, out_chs=24))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch must be a positive integer"),
        ({"threads": 0}, "number of threads must be a positive integer"),
        ({"runtime": "compile"}, "a table needs one of the runtimes"),
    ],
)
def test_impossible_conditions(wrong, message):
    with pytest.raises(ValueError, match=message):
        Clockwork(**wrong)


def test_a_fit_finds_the_constants_that_made_a_table():
    device = replace(load_device("v100"), provenance={})
    keys = variants(network_blocks(DEMO, 512), 6)
    made = predict_table(keys, device)
    table = measured(made.entries, runtime="tensorrt", precision="fp16", threads=0)
    fitted = calibrate_to_table(replace(device, net_us=5.0, launch_us=1.0), table, "a test")
    errors = fitted.provenance
    assert errors["in_sample"]["mean"] < 0.02 and errors["cross_validated"]["mean"] < 0.04
    assert fitted.net_us == pytest.approx(device.net_us, rel=0.05)
    whole = predict(DEMO, fitted, 1, 512).latency
    assert whole.ms == pytest.approx(predict(DEMO, device).latency.ms, rel=0.02)
    assert len(FITTED) == 9 and not whole.note
    assert "batch" in predict(DEMO, fitted, 8, 512).latency.note  # it was fitted at batch 1


def test_what_cannot_be_fitted():
    few = measured({(BLOCK, SIZE): entry(1.0)})
    with pytest.raises(TableError, match="at least 40 blocks; x is measured and has 1"):
        calibrate_to_table(load_device("v100"), few, "x")
    predicted = predict_table(variants(network_blocks(DEMO, 512), 6))
    with pytest.raises(TableError, match="x is predicted"):
        calibrate_to_table(load_device("v100"), predicted, "x")


def test_random_networks_are_of_the_tables_blocks():
    table = predict_table(variants(network_blocks(DEMO, 256), 4))
    specs = random_networks(table, 20, seed=3)
    assert specs == random_networks(table, 20, seed=3) != random_networks(table, 20, seed=4)
    for spec in specs:
        assert all(key in table.entries for key in network_blocks(spec, 256))
    assert len({len(s.blocks) for s in specs}) > 3
    with pytest.raises(TableError, match="no block that takes an image"):
        random_networks(measured({(BLOCK, SIZE): entry(1.0)}), 1)


def test_what_failed_is_in_no_summary():
    def check(ms, failed=False):
        about = dict(model="x", input_size=256, scope="backbone", conditions=measured().conditions)
        latency = Latency(**about, ms=ms, low=ms, high=ms, kind="measured")
        whole = Measurement(latency, Timing((ms,)), 0.0)
        return Check(DEMO, Failure(**about, reason="no") if failed else whole, 1.1 * ms, None)

    checks = [check(1.0), check(2.0, failed=True), check(4.0)]
    found = summaries(checks)
    assert list(found) == ["table"] and found["table"].mean == pytest.approx(0.1)
    assert [c.to_dict()["failed"] for c in checks] == ["", "no", ""]
    assert checks[1].to_dict().keys() == checks[0].to_dict().keys()
    assert summaries(checks[:2]) == {}
