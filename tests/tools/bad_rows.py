"""What users get wrong, by tool: arguments, the files that they name, and what the error says."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tests.conftest import NO_WORKERS, ROOT
from tests.tools.bad_files import (
    BINARY,
    CUT,
    RECORD_FILE,
    SHIPPED,
    SUITE,
    Files,
    blocks,
    coco,
    coco_folder,
    device,
    image_folder,
    metrics,
    not_finite,
    other_weights,
    pickled,
    png,
    record,
    search_result,
    spec,
    table,
)


@dataclass(frozen=True)
class Row:
    """One mistake.

    Attributes:
        tool: Name of the tool.
        args: Its command line, as a shell has it; run in a folder of its own.
        says: Regular expression that the error must fit.
        files: What lies in that folder.
    """

    tool: str
    args: str
    says: str
    files: Files = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.tool} {self.args}"[:80]


def rows_of(tool: str, *rows: tuple) -> list[Row]:
    """Rows of one tool, without its name."""
    return [Row(tool, *row) for row in rows]


DIGITS = "--work-dir out --data-root data/digits"
LOCAL = " ".join(NO_WORKERS)
OWN = f"--data-root d --work-dir out --cfg-options {LOCAL} train_dataloader.batch_size=1"
COCO = f"prunet_effdet_coco.py {OWN} model.backbone.arch=prunet_demo model.neck.num_levels=3"
COCO += " model.bbox_head.num_classes=1"
FOLDER = f"prunet_imagenet.py {OWN} model.arch=prunet_demo model.num_classes=2"
CUT_PNG = png()[:60]


def setting(option: str, says: str, *files: Files) -> tuple:
    """A row of tools/train.py with one of the detector's settings changed."""
    return (f"prunet_effdet.py {DIGITS} --cfg-options {LOCAL} {option}", says, *files)


def config(text: str, says: str) -> tuple:
    """A row of tools/train.py with a config of the user's own."""
    base = f"_base_ = ['{ROOT}/configs/prunet_effdet.py']\n"
    return (f"c.py {DIGITS}", says, {"c.py": text.replace("BASE", base)})


TRAINING = rows_of(
    "train",
    ("", "arguments are required: config"),
    ("d", "there is no config file d", {"d": None}),
    ("prunet_efdet.py", "there is no config file prunet_efdet.py"),
    ("c.json", "c.json is no model config: it has no `model`", {"c.json": {}}),
    ("c.py", "c.py is no valid config: 'utf-8'", {"c.py": BINARY}),
    ("quick.py", "quick.py is no model config"),
    ("configs/benchmark/digits.py", "digits.py is no model config"),
    config("", "c.py is no model config"),
    config("model = dict(\n", r"c.py is no valid config: '\(' was never closed"),
    config("import nowhere_at_all\n", "c.py is no valid config: .*nowhere_at_all"),
    config("_base_ = ['gone.py']\n", "c.py is no valid config: .*gone.py"),
    config("raise RuntimeError('own')\n", "c.py is no valid config: own"),
    config("model = 3\n", "c.py: model must be a dict, got 3"),
    config("model = dict(type='Nothing')\n", "Nothing is not in the mmengine::model registry"),
    config("BASEtrain_dataloader = dict(dataset=3)\n", "train_dataloader.dataset must be a dict"),
    config("BASEoptim_wrapper = None\n", "optim_wrapper"),
    setting("train_dataloader.batch_size=0", "train_dataloader.batch_size must be a pos.*got 0"),
    setting("train_dataloader.batch_size=1.5", "batch_size must be a positive integer, got 1.5"),
    setting("train_dataloader.batch_size=two", "batch_size must be a positive integer, got 'two'"),
    setting("val_dataloader.num_workers=-1", "val_dataloader.num_workers must be .* got -1"),
    setting("optim_wrapper.optimizer.lr=nan", "optimizer.lr must be a number from 0 up, got nan"),
    setting("optim_wrapper.optimizer.lr=-1", "optimizer.lr must be a number from 0 up, got -1"),
    setting("optim_wrapper.optimizer.lr=fast", "optimizer.lr must be a number .* got 'fast'"),
    setting("optim_wrapper.optimizer.lr=1e99", "optimizer.lr must be a number .* got 1e.99"),
    setting("optim_wrapper.optimizer.type=SDG", "there is no optimizer 'SDG'"),
    setting("optim_wrapper.accumulative_counts=0", "accumulative_counts must be a positive"),
    setting("optim_wrapper.clip_grad.max_norm=-1", "max_norm must lie between"),
    setting("train_cfg.max_iters=-5", "train_cfg.max_iters must be a positive integer, got -5"),
    setting("train_cfg.val_interval=0", "train_cfg.val_interval must be a positive integer"),
    setting("default_hooks.logger.interval=0", "default_hooks.logger.interval must be a positive"),
    setting("randomness.seed=-1", "randomness.seed must be an integer of at least 0, got -1"),
    setting("randomness.seed=abc", "randomness.seed must be an integer of at least 0, got 'abc'"),
    setting("param_scheduler=3", "param_scheduler must be a list, got 3"),
    setting("custom_hooks=3", "custom_hooks must be a list, got 3"),
    setting("model=3", "model must be a dict, got 3"),
    setting("model.bbox_head.num_classes=0", "bbox_head.num_classes must be a positive .* got 0"),
    setting("model.bbox_head.num_classes=ten", "num_classes must be a positive integer, got 'ten'"),
    setting("model.bbox_head.num_classes=7", "has 10 classes and the model 7; set model"),
    setting("model.backbone.arch=prunet_p9", "no network 'prunet_p9'.*Did you mean 'prunet_p1'"),
    setting("model.backbone.arch=gone.json", "there is no spec file gone.json"),
    setting("model.backbone.arch=s.json", "s.json: .*schema 7", {"s.json": spec(schema=7)}),
    setting("model.backbone.checkpoint=gone.pth", "there is no checkpoint gone.pth"),
    setting("model.backbone.checkpoint=w.pth", "w.pth is truncated or no", {"w.pth": b"abc"}),
    setting("model.neck.num_cells=0", "num_cells must be .* got 0"),
    setting("train_dataloader.dataset.type=Folders", "Folders is not in the .* registry"),
    setting("speed_up=warp", "speed_up.*'?warp"),
    setting("train_cfg.max_iters", "expected KEY=VALUE, got train_cfg.max_iters"),
    ("prunet_effdet.py --max-iters -3", "--max-iters: must be at least 1, got -3"),
    ("prunet_effdet.py --max-iters many", "--max-iters: must be at least 1, got many"),
    ("prunet_effdet.py --launcher mips", "--launcher: invalid choice: 'mips'"),
    ("prunet_effdet.py --launcher pytorch", "for processes that torchrun starts"),
    ("prunet_effdet.py --batch 3", "unrecognized arguments: --batch 3"),
    ("prunet_effdet.py --speed-up warp", "--speed-up: invalid choice: 'warp'"),
    ("prunet_effdet.py --amp --amp-dtype int8", "--amp-dtype: invalid choice: 'int8'"),
    ("prunet_effdet.py --resume w.pth", "w.pth is truncated or no checkpoint", {"w.pth": b""}),
    ("prunet_effdet.py --resume w", "there is no checkpoint w", {"w": None}),
    ("prunet_effdet.py --data-root data/digits --work-dir f", "f", {"f": "a file"}),
    ("prunet_digits.py --teacher-checkpoint x.pth", "--teacher-checkpoint needs --teacher"),
    ("prunet_digits.py --teacher resnet10t --teacher-checkpoint no.pth", "teacher's checkpoint no"),
    (COCO, "d/annotations/instances_train2017.json"),
    (COCO, "no COCO annotation file: .*line 1", coco_folder(train=CUT)),
    (COCO, "it has no list 'images'", coco_folder(val="[]")),
    (COCO, "there is nothing to train on", coco_folder(train=coco(boxes=False))),
    (COCO, "none of the classes cat; it has dog", coco_folder(val=coco(name="dog"))),
    (COCO, "there is no image folder d/train2017", coco_folder(picture=...)),
    (COCO, "train2017/a.png", coco_folder(picture=b"no picture")),
    (f"{COCO} model.bbox_head.num_classes=3", "has 1 class.*the model 3", coco_folder()),
    (FOLDER, "there is no data folder d/train; expected is one folder a class"),
    (FOLDER, "d/train does not hold one folder of images a class", {"d/train": None}),
    (FOLDER, "at least two classes are needed", image_folder(train="a")),
    (FOLDER, "no valid file for the classes c", {**image_folder(), "d/train/c": None}),
    (FOLDER, "has 3 classes and the model 2", image_folder(train="abc", val="abc")),
    (FOLDER, "different classes.*a, b and a, c", image_folder(val="ac")),
    (FOLDER, "there is no data folder d/val", image_folder(val="")),
    (f"{FOLDER} model.loss=mse", "loss must be one of .* got 'mse'", image_folder()),
    (f"{FOLDER} model.arch=nothing", "there is no network 'nothing'", image_folder()),
)

WEIGHTS = f"prunet_effdet.py w.safetensors {DIGITS}"
PICKLED = f"prunet_effdet.py w.pth {DIGITS}"
NO_NAMES, NUMBERS = {"classes": 3}, {"classes": [1, 2]}
TESTING = rows_of(
    "test",
    ("prunet_effdet.py", "arguments are required: checkpoint"),
    (WEIGHTS, "there is no checkpoint w.safetensors"),
    (WEIGHTS, "there is no checkpoint w.safetensors", {"w.safetensors": None}),
    (WEIGHTS, "w.safetensors is truncated or no checkpoint", {"w.safetensors": b""}),
    (WEIGHTS, "is truncated or no", {"w.safetensors": SHIPPED.read_bytes()[:5000]}),
    (WEIGHTS, "w.safetensors is truncated or no checkpoint", {"w.safetensors": b"{}" * 40}),
    (WEIGHTS, r"w.safetensors does not fit the model: .*0/\d+", {"w.safetensors": other_weights}),
    (WEIGHTS, "w.safetensors.* not finite", {"w.safetensors": not_finite}),
    (PICKLED, "w.pth is truncated or no checkpoint", {"w.pth": b"abc"}),
    (PICKLED, "w.pth holds no tensors", {"w.pth": pickled({"state_dict": {}})}),
    (PICKLED, "w.pth holds no tensors", {"w.pth": pickled(torch.zeros(3))}),
    (PICKLED, "w.pth .*pickled objects", {"w.pth": pickled(Row("a", "b", "c"))}),
    (
        WEIGHTS,
        "classes in w.json or .* got 3",
        {"w.safetensors": other_weights, "w.json": NO_NAMES},
    ),
    (
        WEIGHTS,
        r"train.json .* got \[1, 2\]",
        {"w.safetensors": other_weights, "train.json": NUMBERS},
    ),
    (f"{WEIGHTS} --out r.json", "--out: r.json is a folder", {"r.json": None}),
    (f"{WEIGHTS} --out f/r.json", "--out: f cannot be written", {"f": "a file"}),
    ("quick.py w.safetensors", "is no model config", {"w.safetensors": SHIPPED.read_bytes()}),
    (
        f"prunet_digits.py w.safetensors {DIGITS}",
        "w.safetensors does not fit the model",
        {"w.safetensors": SHIPPED.read_bytes()},
    ),
)

PICTURE = {"a.png": png()}
OTHER = {**PICTURE, "w.safetensors": SHIPPED.read_bytes()}
SEEN = "a.png --out out"
DETECTION = rows_of(
    "detect",
    ("", "arguments are required: PATH"),
    ("gone.png", "gone.png"),
    ("d", "the folder d holds no image", {"d/x.txt": "x"}),
    (SEEN, "a.png", {"a.png": b""}),
    (SEEN, "a.png", {"a.png": "no picture"}),
    (f"{SEEN} --score-thr nan", "--score-thr .*nan", PICTURE),
    (f"{SEEN} --score-thr 1.5", "--score-thr .*1.5", PICTURE),
    (f"{SEEN} --score-thr high", "--score-thr: .*'?high", PICTURE),
    (f"{SEEN} --device tpu", "there is no device 'tpu'; give cpu, cuda or cuda:N", PICTURE),
    (f"{SEEN} --device mps", "there is no device 'mps'; give cpu, cuda or cuda:N", PICTURE),
    (f"{SEEN} --device meta", "there is no device 'meta'; give cpu, cuda or cuda:N", PICTURE),
    (f"{SEEN} --device cuda:7", "there is no CUDA device cuda:7", PICTURE),
    (f"{SEEN} --checkpoint no.pth", "there is no checkpoint or folder no.pth", PICTURE),
    (f"{SEEN} --classes a b", "10 classes, but 2 names", PICTURE),
    (f"{SEEN} --config prunet_digits.py", "no .*detector", PICTURE),
    (f"{SEEN} --config c.py", "c.py is no valid config", {**PICTURE, "c.py": "x = ("}),
    ("a.png --out f", "f", {**PICTURE, "f": "a file"}),
)

NET = "--input-size 64 --out out/n.onnx"
EXPORT = rows_of(
    "export",
    ("prunet_demo", "arguments are required: --out"),
    (f"prunet_dem {NET}", "there is no network 'prunet_dem'"),
    (f"gone.py {NET}", "there is no config file gone.py"),
    (f"quick.py {NET}", "quick.py is no .*detector's config"),
    (f"prunet_digits.py {NET}", "prunet_digits.py is no .*detector's config"),
    (f"s.json {NET}", "there is no spec file s.json"),
    (f"s.json {NET}", "there is no spec file s.json", {"s.json": None}),
    (f"s.json {NET}", "s.json is no spec file: it is no JSON", {"s.json": ""}),
    (f"s.json {NET}", "s.json is no spec file: it is no JSON", {"s.json": BINARY}),
    (f"s.json {NET}", "s.json is no spec file: expected an object .* got list", {"s.json": []}),
    (f"s.json {NET}", "s.json: schema None is not known", {"s.json": {}}),
    (f"s.json {NET}", "s.json: .*'stages' is missing", {"s.json": spec(stages=...)}),
    (f"s.json {NET}", "s.json: stages: expected a list", {"s.json": spec(stages={"a": 1})}),
    (f"s.json {NET}", "s.json: .*it has no stages", {"s.json": spec(stages=[])}),
    (f"s.json {NET}", "stage 0: block 0: expected an object", {"s.json": blocks(3)}),
    (
        f"s.json {NET}",
        "in_chs must be an integer, got 1.5",
        {"s.json": blocks({"kind": "conv", "in_chs": 1.5, "out_chs": 8})},
    ),
    (f"s.json {NET}", "stem.widths: expected a list", {"s.json": spec(stem={"widths": 16})}),
    (f"s.json {NET}", "stem: expected an object", {"s.json": spec(stem=None)}),
    (f"s.json {NET}", "a network needs a name", {"s.json": spec(name=3)}),
    (f"s.json {NET}", "its name becomes that of files", {"s.json": spec(name="../b")}),
    (f"s.json {NET}", "crop_pct must .* nan", {"s.json": spec(crop_pct=float("nan"))}),
    (f"s.json {NET}", "input_size must be an integer", {"s.json": spec(input_size=1e99)}),
    (f"s.json {NET}", "unknown key 'tial'.*Did you mean 'tail'", {"s.json": spec(tial=1)}),
    (f"s.json {NET}", "must say its command", {"s.json": spec(provenance={"kind": "searched"})}),
    (f"prunet_demo w.pth {NET}", "there is no checkpoint w.pth"),
    (f"prunet_demo w.pth {NET}", "w.pth is (truncated|damaged)", {"w.pth": BINARY}),
    (
        f"prunet_demo w.safetensors {NET}",
        "w.safetensors.*another network",
        {"w.safetensors": other_weights},
    ),
    (f"prunet_demo w.safetensors {NET}", "not finite", {"w.safetensors": not_finite}),
    (f"prunet_demo {NET} --scope detector", "scope detector needs a detector's config"),
    (f"prunet_demo {NET} --batch 0", "--batch.* must be .*'?0"),
    (f"prunet_demo {NET} --batch two", "--batch.* must be .*'?two"),
    (f"prunet_demo {NET} --input-size 0", "--input-size: must be at least 1, got 0"),
    (f"prunet_demo {NET} --input-size nan", "--input-size: must be at least 1, got nan"),
    (f"prunet_demo {NET} --precision int8", "--precision: invalid choice: 'int8'"),
    ("prunet_demo --out n.pt", "--out must end in .onnx"),
    ("prunet_demo --out n.onnx", "n.onnx is a folder", {"n.onnx": None}),
    ("prunet_demo --out f/n.onnx", "f cannot be written", {"f": "a file"}),
)

WEIGHT_FILES = rows_of(
    "convert_weights",
    ("relase a b c", "invalid choice: 'relase'"),
    ("gpunet gpunet_0 w.pth o.safetensors", "there is no checkpoint w.pth"),
    ("gpunet gpunet_0 w.pth o.safetensors", "w.pth is truncated", {"w.pth": b"abc"}),
    (
        "gpunet gpunet_99 w.pth o.safetensors",
        "Did you mean 'gpunet_",
        {"w.pth": pickled({"a": torch.zeros(2)})},
    ),
    (
        "gpunet gpunet_0 w.pth o.safetensors",
        "w.pth has none of the names of a released GPUNet",
        {"w.pth": pickled({"a": torch.zeros(2)})},
    ),
    (
        "effdet tf_efficientdet_d99 w.pth o.safetensors",
        "effdet has no model 'tf_efficientdet_d99'",
        {"w.pth": pickled({"a": torch.zeros(2)})},
    ),
    (
        "effdet tf_efficientdet_d0 w.pth o.safetensors",
        "no effdet detector",
        {"w.pth": pickled({"a": torch.zeros(2)})},
    ),
    ("gpunet gpunet_0 w.pth o.bin", "must end in .safetensors", {"w.pth": b"abc"}),
    ("gpunet gpunet_0 w.pth o.safetensors", "o.safetensors is a folder", {"o.safetensors": None}),
    (
        "release gone.py w.safetensors o.safetensors",
        "there is no config file gone.py",
        {"w.safetensors": other_weights},
    ),
    (
        "release prunet_effdet.py w.safetensors o.safetensors",
        "has no train.json",
        {"w.safetensors": other_weights, "train.json": CUT},
    ),
    (
        "release prunet_effdet.py w.safetensors o.safetensors",
        "error: w.safetensors does not fit the model",
        {"w.safetensors": other_weights, "train.json": {"iterations": 3}},
    ),
)

DATA = rows_of(
    "make_data",
    ("", "arguments are required: name"),
    ("digit", "no embedded set 'digit'; the known ones: digits"),
    ("digits --workers two", "--workers: must be at least 1, got two"),
    ("digits --out f", "f is no folder", {"f": "a file"}),
    ("digits --out d", "d exists and holds own.txt", {"d/own.txt": "mine"}),
)

DEMO = "--model prunet_demo --input-size 64"
ON_FILE = f"predict {DEMO} --device d.json"
CHECK = "check t.json --seconds 0.01"
FIT = "calibrate --from t.json --device v100"
LATENCY = rows_of(
    "latency",
    ("", "arguments are required: VERB"),
    ("predikt", "VERB: invalid choice: 'predikt'"),
    ("predict", "arguments are required: --model"),
    ("predict --model ''", "there is no network ''"),
    ("predict --model gone.py", "there is no config file gone.py"),
    (f"predict {DEMO} --batch nan", "--batch: must be at least 1, got nan"),
    (f"predict {DEMO} --scope whole", "--scope: invalid choice: 'whole'"),
    (f"predict {DEMO} --device v1000", "no device 'v1000'; the known ones are a100"),
    (f"predict {DEMO} --plots f", "f", {"f": "a file"}),
    (ON_FILE, "there is no device 'd.json'"),
    (ON_FILE, "there is no device 'd.json'", {"d.json": None}),
    (ON_FILE, "d.json is no device file: it is no JSON", {"d.json": ""}),
    (ON_FILE, "d.json is no device file: it is no JSON", {"d.json": BINARY}),
    (ON_FILE, "d.json is no device file: expected an object", {"d.json": []}),
    (ON_FILE, "the key 'name' is missing", {"d.json": device(name=...)}),
    (ON_FILE, "unknown key 'colour'", {"d.json": device(colour=1)}),
    (ON_FILE, "unknown key 'schema'", {"d.json": spec()}),
    (ON_FILE, "title must be a text, got 3", {"d.json": device(title=3)}),
    (
        ON_FILE,
        "clock_ghz must be a number above 0, got 'fast'",
        {"d.json": device(clock_ghz="fast")},
    ),
    (ON_FILE, "clock_ghz must be a number above 0, got 0", {"d.json": device(clock_ghz=0)}),
    (ON_FILE, "dram_gb_s must .* got nan", {"d.json": device(dram_gb_s=float("nan"))}),
    (ON_FILE, "net_us must be a number 0 or more, got -1", {"d.json": device(net_us=-1)}),
    (ON_FILE, "d.json is no device file: .*'int8'", {"d.json": device(precision="int8")}),
    (ON_FILE, "d.json is no device file: .*runtime 'warp'", {"d.json": device(runtime="warp")}),
    (ON_FILE, "provenance must be an object", {"d.json": device(provenance=3)}),
    (f"measure {DEMO} --device cuda:7", "there is no CUDA device cuda:7"),
    (f"measure {DEMO} --device mps", "there is no device 'mps'"),
    (f"measure {DEMO} --seconds nan", "--seconds: must be a number above 0, got nan"),
    (f"measure {DEMO} --seconds soon", "--seconds: must be a number above 0, got soon"),
    (f"measure {DEMO} --threads 0", "--threads: must be at least 1, got 0"),
    (f"measure {DEMO} --runtime warp", "--runtime: invalid choice: 'warp'"),
    (f"measure {DEMO} --precision int4", "--precision: invalid choice: 'int4'"),
    (f"measure {DEMO} --checkpoint no.pth", "there is no checkpoint no.pth"),
    (f"measure {DEMO} --checkpoint w.pth", "w.pth is truncated", {"w.pth": b"abc"}),
    (f"measure {DEMO} --out d", "--out: d is a folder", {"d": None}),
    (f"measure {DEMO} --out f/m.csv", "--out: f cannot be written", {"f": "a file"}),
    ("compare --model nothing --no-measure", "there is no network 'nothing'"),
    (f"table {DEMO}", "arguments are required: --out"),
    (f"table {DEMO} --out d --device v100", "--out: d is a folder", {"d": None}),
    (f"table {DEMO} --out t.json --threads 1", "t.json is no latency table", {"t.json": CUT}),
    (f"table {DEMO} --out t.json --device v100", "t.json is no latency table", {"t.json": "notes"}),
    ("table --model resnet18 --out t.json", "there is no network 'resnet18'"),
    (f"table {DEMO} --out t.json --device d.json", "d.json is no device file", {"d.json": CUT}),
    (CHECK, "there is no latency table t.json"),
    (CHECK, "t.json is no latency table: it is no JSON", {"t.json": BINARY}),
    (CHECK, "t.json is no latency table: expected an object", {"t.json": []}),
    (
        CHECK,
        "t.json is no latency table: schema 9 is not known, only 1",
        {"t.json": table(schema=9)},
    ),
    (CHECK, "no latency table: its kind is 'guessed'", {"t.json": table(kind="guessed")}),
    (CHECK, "t.json is no latency table", {"t.json": table(conditions=[])}),
    (CHECK, "the batch must be a positive integer, got 0", {"t.json": table(batch=0)}),
    (CHECK, "takes nan ms", {"t.json": table(ms=float("nan"))}),
    (CHECK, "takes -1.0 ms", {"t.json": table(ms=-1)}),
    (CHECK, "a block: the key 'in_chs' is missing", {"t.json": table(block={"kind": "conv"})}),
    (CHECK, "was measured on tpu 9", {"t.json": table(kind="measured", device="tpu 9")}),
    (CHECK, "a check needs a measured table", {"t.json": table()}),
    (f"{CHECK} --networks 1", "--networks: must be at least 2, got 1", {"t.json": table()}),
    (f"{CHECK} --fitted no.json", "there is no device 'no.json'", {"t.json": table()}),
    (f"{FIT} --networks n.csv", "there is no CSV file n.csv", {"t.json": table()}),
    (f"{FIT} --networks n.csv", "n.csv holds no records", {"t.json": table(), "n.csv": ""}),
    (f"{FIT} --networks n.csv", "n.csv is no CSV file", {"t.json": table(), "n.csv": BINARY}),
    (f"{FIT} --networks n.csv", "'model' is missing", {"t.json": table(), "n.csv": "a,b\n1,2\n"}),
    (f"{FIT} --out d", "--out: d is a folder", {"t.json": table(), "d": None}),
    (FIT, "needs a measured table of at least 40 blocks", {"t.json": table()}),
    ("calibrate --networks n.csv", "--networks .*--from", {"n.csv": ""}),
    ("calibrate --device tpu", "no published times of 'tpu'"),
)

QUICK = "quick.py --budget-ms 0.5 --out out --quiet"
FOUND_IN = "compare --config quick.py --budget-ms 0.5 --out out --searches"
SEARCH = rows_of(
    "search_backbone",
    ("quick.py", "arguments are required: --budget-ms"),
    ("prics quick.py --budget-ms 1", "there is no verb 'prics'. Did you mean 'prices'?"),
    ("gone.py --budget-ms 1", "there is no config file gone.py"),
    ("c.py --budget-ms 1", "c.py is no valid config", {"c.py": "x = ("}),
    (f"{QUICK} --budget-ms nan", "--budget-ms: must be a number above 0, got nan"),
    (f"{QUICK} --budget-ms 0.5 1e-9", "a budget of 1e-09 ms cannot be met: the space reaches"),
    (f"{QUICK} --budget-ms 0.5 0.5", "a budget is given twice"),
    (f"{QUICK} --off layer", "to switch off must be of .*layers.*, got 'layer'"),
    (f"{QUICK} --device cuda:7", "there is no device 'cuda:7'"),
    (f"{QUICK} --device d.json", "d.json is no table or device file", {"d.json": CUT}),
    (f"{QUICK} --device t.json", "another space or input size", {"t.json": table()}),
    (f"{QUICK} --names a/b", "become those of files"),
    (f"{QUICK} --names a b", "a name for each of the 1 budgets, got 2"),
    (f"{QUICK} --launcher pytorch", "for processes that torchrun starts"),
    (f"{QUICK} --data d", "there is no data folder d/train", {"d": None}),
    (f"{QUICK} --data d", "at least two classes are needed", image_folder(train="a")),
    (f"{QUICK} --data d --classes a c", "there is no class 'c'", image_folder()),
    (f"{QUICK} --classes 11", "the first 11 of 10 classes cannot be kept"),
    (f"{QUICK} --cfg-options search=3", "no place for the option|expected an object with keys"),
    (f"{QUICK} --cfg-options search.warmup=many", "warmup must be an integer, got 'many'"),
    (f"{QUICK} --cfg-options search.warm=3", "search: unknown key 'warm'.*mean 'warmup'"),
    (f"{QUICK} --cfg-options space.kind=conv", "'kind'.*[Dd]id you mean '?(space.)?kinds"),
    (f"{QUICK} --cfg-options search.batch=0", "search.batch must be a positive integer, got 0"),
    (f"{QUICK} --cfg-options recipe.batch_size=0", "batch_size .*must be 1 or more"),
    (f"{QUICK} --cfg-options finalists.kept=3", "finalists: kept must be a list, got 3"),
    (f"{QUICK} --cfg-options optim_wrapper.optimizer.type=Nadir", "Nadir"),
    (QUICK, "out cannot be written", {"out": "a file"}),
    (QUICK, "out holds a result without a checkpoint", {"out/run.json": "{}"}),
    (QUICK, "out holds a search already", {"out/search.pth": BINARY}),
    (f"{QUICK} --resume", "out/search.pth is damaged", {"out/search.pth": BINARY}),
    (f"{FOUND_IN} gone", "gone holds no result"),
    (f"{FOUND_IN} d", "d/0.5ms/run.json .*it has no 'chooser'", search_result(chooser=...)),
    ("compare --config quick.py --budget-ms 1", "arguments are required: --out"),
    ("compare --config quick.py --budget-ms 9 --out out", "a budget of 9 ms cannot be met"),
    ("compare --config quick.py --budget-ms 0.5 --out f", "f", {"f": "a file"}),
    ("compare --config prunet_effdet.py --budget-ms 1 --out out", "it has no `space`"),
    ("compare --networks d --out out", "there is no list of compared networks d"),
    (
        "compare --networks d.json --out out",
        "d.json is no list of compared networks: it has no 'about'",
        {"d.json": {"entries": []}},
    ),
    ("compare --config quick.py --out out", "give --budget-ms"),
    ("compare --out out --trainings 0", "there is no list of compared networks out"),
)

REPORT = "report d --out out"


def suite(text: str, says: str) -> tuple:
    """A row of a suite of the user's own."""
    return ("--suite s.py --out out", says, {"s.py": text})


def records(says: str, content: object) -> tuple:
    """A row of a report on one record."""
    return (REPORT, says, {RECORD_FILE: content})


def beside(name: str, content: object, says: str) -> tuple:
    """A row of a report on a good record, with another file in its folder."""
    return (REPORT, f"d/{name}.*{says}", {RECORD_FILE: record(), f"d/{name}": content})


BENCHMARK = rows_of(
    "benchmark",
    ("tme --suite s.py", "there is no verb 'tme'. Did you mean 'time'?", {"s.py": SUITE}),
    ("--suite gone --out out", "there is no suite gone; the package's are coco, digits"),
    ("--suite s.py --out out", "there is no suite s.py", {"s.py": None}),
    suite("", "s.py is no valid suite: the key 'config' is missing"),
    suite("x = (", "s.py is no valid config"),
    suite(f"{SUITE}colour = 1\n", "unknown key 'colour'"),
    suite("config = 'prunet_effdet.py'\nmodels = 3\n", "models must be a dict"),
    suite(SUITE.replace("('prunet_demo', 64)", "'prunet_demo'"), r"\(network, pixels\) pairs"),
    suite(SUITE.replace("64", "'big'"), r"\(network, pixels\) pairs"),
    suite(SUITE.replace("64", "0"), "the input size must be a positive integer, got 0"),
    suite(SUITE.replace("prunet_demo", "prunet_dmo"), "there is no network 'prunet_dmo'"),
    suite(SUITE.replace("prunet_demo", "gone.json"), "there is no spec file gone.json"),
    suite(SUITE.replace("prunet=", "vgg="), "unknown key 'vgg'"),
    suite(SUITE.replace("configs/prunet_effdet.py", "gone.py"), "there is no config file gone.py"),
    suite(f"{SUITE}seeds = 0\n", "s.py: seeds must be a positive integer, got 0"),
    suite(f"{SUITE}max_iters = 'x'\n", "s.py: max_iters must be an integer or nothing, got 'x'"),
    suite(f"{SUITE}options = 3\n", "s.py: models must be a dict .* and options a dict"),
    suite(f"{SUITE}learning_rates = ['x']\n", "learning_rates and crop must be above 0"),
    suite(f"{SUITE}learning_rates = 3\n", "learning_rates must be a list"),
    suite(f"{SUITE}crop = 0\n", "learning_rates and crop must be above 0"),
    suite(f"{SUITE}amp = 'yes'\n", "amp must be true or false, got 'yes'"),
    ("--suite s.py --out f", "cannot be written", {"s.py": SUITE, "f": "a file"}),
    ("--suite s.py --models prunet_demo@big", "has no model 'prunet_demo@big'", {"s.py": SUITE}),
    ("--suite s.py --options x", "expected KEY=VALUE, got x", {"s.py": SUITE}),
    ("--suite s.py --launcher slurm", "--launcher: invalid choice: 'slurm'", {"s.py": SUITE}),
    ("--suite s.py --max-minutes nan", "--max-minutes: must be a number above 0", {"s.py": SUITE}),
    ("time --suite s.py --out out", "out holds no records", {"s.py": SUITE}),
    ("lr --suite s.py --out out", "fewer than two learning_rates", {"s.py": SUITE}),
    ("speed-up --suite s.py --models gone", "has no model 'gone'", {"s.py": SUITE}),
    ("imagenet --device tpu", "there is no device 'tpu'"),
    ("imagenet --device d.json", "d.json is no device file", {"d.json": CUT}),
    ("imagenet --device v100 --models nothing", "no network .* is called 'nothing'"),
    ("imagenet --runtime warp", "--runtime: invalid choice: 'warp'"),
    ("imagenet --device v100 --runtime eager", "--runtime is for measurements"),
    ("report gone", "gone holds no records"),
    ("report d", "d holds no records", {"d": None}),
    records("d holds no records", ""),
    records("line 1 of d/records.jsonl is damaged", BINARY + b"\n"),
    records("line 1 of d/records.jsonl is damaged", "[]\n"),
    records("line 1 of d/records.jsonl is damaged", "{\n"),
    records("the key 'model' is missing", record(model=...)),
    records("unknown key 'colour'", record(colour=1)),
    records("parameters must be an integer, got 'x'", record(parameters="x")),
    records("family must be one of prunet", record(family="vgg")),
    records("mAP must lie between 0 and 1, got nan", metrics(float("nan"))),
    records("d is no folder of a benchmark's records", metrics("x")),
    records("d is no folder of a benchmark's records", record(metrics=3)),
    (
        REPORT,
        "differ in data",
        {RECORD_FILE: record(), "d/other.jsonl": record(input_size=96, data_hash="")},
    ),
    beside("latency/x.json", CUT, "is no readable file of latencies: it is no JSON"),
    beside("latency/x.json", [], "is no readable file of latencies: expected an object"),
    beside("latency/x.json", {}, "is no readable file of latencies: it has no 'rows'"),
    beside("latency/x.json", {"rows": [3]}, "is no readable file of latencies"),
    beside("learning_rate.json", CUT, "no JSON"),
    beside("learning_rate.json", {}, "it has no 'config_hash'"),
    beside("profile.csv", BINARY, "is no CSV file"),
    beside("throughput.csv", "a,b\n1,2\n", "it has no 'device'"),
    (f"{REPORT} --out f", "f cannot be written", {RECORD_FILE: record(), "f": "a file"}),
)

OTHERS = [
    *rows_of(
        "gpu",
        ("", "arguments are required: --out"),
        ("--out f --rehearsal", "f cannot be written", {"f": "a file"}),
        ("--out out --minutes nan --rehearsal", "--minutes: must be a number above 0, got nan"),
        ("--out out --rehearsal --parts test", "there is no part 'test'; the parts are tests"),
    ),
    *rows_of(
        "report",
        ("--chek", "unrecognized arguments: --chek"),
        ("--check --redraw", "not allowed with argument"),
        ("page.md", "unrecognized arguments: page.md"),
    ),
    *rows_of("doctor", ("--fix", "unrecognized arguments: --fix")),
]

ROWS = [
    *TRAINING,
    *TESTING,
    *DETECTION,
    *EXPORT,
    *WEIGHT_FILES,
    *DATA,
    *LATENCY,
    *SEARCH,
    *BENCHMARK,
    *OTHERS,
]
