"""The Prunodes' rule of motion on preferences whose best width is known.

    python tools/experiments/prunode_rule.py --out docs/results/search/prunode_rule.csv

Each preference is a loss over inner widths from 1/e to e times the uniform expansion, of the range
1; some paths a step draw one of a Prunode's two widths and give its loss, with noise. A good rule
ends near the best width where the noise lets it, and stays where there is nothing to find.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict, dataclass

import numpy as np

from prunet_det.search.gains import Prunodes
from prunet_det.search.schedule import WidthRule
from prunet_det.utils.errors import run_tool
from prunet_det.utils.io import text_table, write_csv

GRID = np.linspace(-1.0, 1.0, 129)  # positions: logarithms of a width's ratio to the uniform one
NOISES = (0.3, 1.0, 3.0)  # standard deviation of a path's loss, in ranges of the preference
KINDS = ("absolute", "square", "root", "asymmetric", "mixed", "monotone")


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """What became of the preferences.

    Attributes:
        noise: Standard deviation of a path's loss.
        before: Mean loss at the uniform expansion, above the best one.
        after: The same at the end.
        near: Share of the preferences that end at a loss of at most 0.1.
        worse: Share that ends at a loss more than 0.02 above that of the uniform expansion.
        moved: Share of Prunodes without any preference that end more than 0.2 from where they were.
    """

    noise: float
    before: float
    after: float
    near: float
    worse: float
    moved: float


def random_preferences(count: int, seed: int) -> np.ndarray:
    """Losses over GRID, (count, positions), each from 0 to 1: unimodal ones and monotone ones."""
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(count):
        x = (GRID + 1) / 2 if rng.random() < 0.5 else np.exp(GRID)
        x = (x - x[0]) / (x[-1] - x[0])
        at = x[rng.integers(len(x))]
        away, kind = np.abs(x - at), rng.choice(KINDS)
        loss = {
            "absolute": away,
            "square": away**2,
            "root": np.sqrt(away),
            "asymmetric": away * np.where(x < at, 1.0, rng.uniform(0.2, 5.0)),
            "mixed": away + rng.uniform(0, 3) * away**2,
            "monotone": rng.choice([-1, 1]) * x ** rng.choice([0.5, 1.0, 1.5]),
        }[kind]
        losses.append((loss - loss.min()) / (loss.max() - loss.min()))
    return np.array(losses)


def final_positions(
    losses: np.ndarray, noise: float, steps: int, paths: int, seed: int, rule: WidthRule
) -> np.ndarray:
    """Lets the rule search all preferences at once.

    Args:
        losses: Losses over GRID, (preferences, positions).
        noise: Standard deviation of a path's loss.
        steps: Steps of the rule.
        paths: Paths of a step.
        seed: Seed of widths and noise.
        rule: The constants.

    Returns:
        Centres of the pairs at the end, (preferences,).
    """
    rng, count = np.random.default_rng(seed), len(losses)
    nodes, rows = Prunodes.start((count,)), np.arange(count)
    for step in range(steps):
        progress = step / steps
        likely = nodes.wide()
        wide = rng.random((paths, count)) < likely
        positions = nodes.centre + rule.half_gap(progress) * np.where(wide, 1.0, -1.0)
        found = losses[rows, np.abs(positions[..., None] - GRID).argmin(-1)]
        found = found + noise * rng.normal(size=found.shape)
        each = (wide - likely) / (likely * (1 - likely)) * (found.mean(0) - found)
        sums = np.full(count, float(paths)), each.sum(0), (each**2).sum(0)
        nodes.move(*sums, at=progress, rule=rule)
    return nodes.centre


def check_rule(
    count: int, noise: float, steps: int, paths: int, seed: int, rule: WidthRule | None = None
) -> RuleResult:
    """What becomes of random preferences, and of as many that are flat."""
    rule = rule or WidthRule()
    losses = random_preferences(count, seed)
    ends = final_positions(losses, noise, steps, paths, seed, rule)
    flat = final_positions(np.zeros_like(losses), noise, steps, paths, seed + 1, rule)
    after = losses[np.arange(count), np.abs(ends[:, None] - GRID).argmin(1)]
    before = losses[:, len(GRID) // 2]
    return RuleResult(
        noise=noise,
        before=float(before.mean()),
        after=float(after.mean()),
        near=float((after <= 0.1).mean()),
        worse=float((after > before + 0.02).mean()),
        moved=float((np.abs(flat) > 0.2).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preferences", type=int, default=200, help="how many [200]")
    add("--steps", type=int, default=90, help="of the tiers' phase [90]")
    add("--paths", type=int, default=8, help="of a step [8]")
    add("--seed", type=int, default=0)
    add("--out", metavar="FILE.csv", help="also write the figures here")
    args = parser.parse_args()
    sizes = args.steps, args.paths, args.seed
    results = [check_rule(args.preferences, noise, *sizes) for noise in NOISES]
    rows = [
        [f"{r.noise:g}", *(f"{v:.3f}" for v in (r.before, r.after))]
        + [f"{v:.1%}" for v in (r.near, r.worse, r.moved)]
        for r in results
    ]
    header = ["noise of a path", "loss at uniform widths", "loss at the end", "near the best"]
    title = f"{args.preferences} preferences, {args.steps} steps of {args.paths} paths"
    print(text_table(title, [*header, "worse than uniform", "moved without preference"], rows))
    if args.out:
        given = {k: getattr(args, k) for k in ("preferences", "steps", "paths", "seed")}
        records = [{**asdict(result), **given} for result in results]
        write_csv(args.out, records, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    run_tool(main)
