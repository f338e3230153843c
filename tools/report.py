"""Write the generated tables of README.md and docs/: python tools/report.py [--check].

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; figures come from
docs/results/ and from the cards in checkpoints/, and counts from the specs.
"""

import argparse
import json
import re
from pathlib import Path

from prunet_det.errors import UserError, run_tool

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def zoo() -> str:
    """Every network: counts at its own resolution, computed on shapes alone."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import prunet_det

    rows = []
    for name in prunet_det.model_names():
        spec = prunet_det.load_spec(name)
        model = timm.create_model(name).eval().to("meta")
        image = torch.empty(1, 3, spec.input_size, spec.input_size, device="meta")
        with FlopCounterMode(display=False) as counter:
            model(image)
        features = list(spec.feature_stages())
        rows.append(
            [
                f"`{name}`",
                spec.provenance.kind,
                str(spec.input_size),
                f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
                f"{counter.get_total_flops() / 2e9:.3f}",
                ", ".join(str(stride) for _, _, stride in features),
                ", ".join(str(chs) for _, chs, _ in features),
            ]
        )
    header = ["network", "provenance", "px", "parameters (M)", "GMACs", "strides", "channels"]
    return markdown(header, rows)


def digits() -> str:
    """Detectors on the 300 val images of the embedded digits."""
    results = ROOT / "docs" / "results" / "digits"
    files = [*sorted((ROOT / "checkpoints").glob("*.json")), *sorted(results.glob("*.json"))]
    rows = []
    for path in files:
        record = json.loads(path.read_text(encoding="utf-8"))
        m, training = record["metrics"], record["training"]
        rows.append(
            [
                f"[{path.stem}]({path.relative_to(ROOT)})",
                f"`{record['config']}`",
                f"{record['parameters'] / 1e6:.2f}",
                str(training["iterations"]),
                f"{training['minutes']:.0f}",
                f"**{m['bbox_mAP']:.3f}**",
                *(f"{m[f'bbox_mAP_{k}']:.3f}" for k in ("50", "75", "s", "m")),
            ]
        )
    rows.sort(key=lambda row: row[5], reverse=True)
    header = ["record", "config", "parameters (M)", "iterations", "minutes on 2 cores"]
    return markdown([*header, "mAP", "AP50", "AP75", "AP small", "AP medium"], rows)


TABLES = {"zoo": zoo, "digits": digits}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where stale")
    args = parser.parse_args()
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")

        def fill(match: re.Match[str], page: Path = page) -> str:
            if match[2] not in TABLES:
                raise UserError(f"{page.name} asks for the table {match[2]!r}, which is unknown.")
            table = TABLES[match[2]]()
            links = "../" if page.parent.name == "docs" else ""
            return match[1] + table.replace("](", f"]({links}") + match[3]

        new = BLOCK.sub(fill, text)
        if new != text:
            stale.append(page.name)
            if not args.check:
                page.write_text(new, encoding="utf-8")
    print(f"{'stale' if args.check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    run_tool(main)
