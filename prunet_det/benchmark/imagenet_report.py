"""What published accuracies beside latencies say: sentences, tables and the data of a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prunet_det.benchmark.fronts import PUBLISHED_STYLES, FrontPoint, family_fronts, pareto
from prunet_det.benchmark.imagenet import Entry
from prunet_det.benchmark.published import point
from prunet_det.latency.calibrate import published_devices
from prunet_det.utils.io import markdown_table, text_table

TITLE = "Published top-1, not measured here; each network at the resolution of its accuracy"
NOTES = {"predicted": "outside of what the model was fitted to", "measured": "unstable"}
NO_FRONT = "None of these networks was trained without extra data, so there is no front."
HEADER = ("network", "px", "family", "top-1, %", "ms", "between", "on the front of", "trained with")


def fair(entries: Sequence[Entry]) -> list[FrontPoint]:
    """Those that a front may have: with a latency, and trained without extra data."""
    return _points(e for e in entries if not e.classifier.extra_data)


def extra(entries: Sequence[Entry]) -> list[FrontPoint]:
    """Those with a latency that were trained on extra data."""
    return _points(e for e in entries if e.classifier.extra_data)


def _points(entries: Iterable[Entry]) -> list[FrontPoint]:
    return [point(e.classifier, e.latency) for e in entries if e.latency]


def conditions(entries: Sequence[Entry]) -> str:
    """How the latencies are known, and what they hold for."""
    latency = next(e.latency for e in entries if e.latency)
    return f"{latency.kind}, {latency.scope}: {latency.conditions}"


def verdict(entries: Sequence[Entry]) -> list[str]:
    """Sentences about the front of all networks: who is on it, and how far the PruNets are from it.

    Args:
        entries: A record's, at least one of them with a latency.
    """
    every = fair(entries)
    front = pareto(every)
    families = [
        f"{PUBLISHED_STYLES[f].title}: {_names([p for p in front if p.family == f]) or 'none'}"
        for f in family_fronts(every)
    ]
    networks = len({(_name(p), p.input_size) for p in every})
    sentences = [
        f"Of {networks} networks and resolutions trained without extra data, {len(front)} are on "
        f"the front of all ({'; '.join(families)})."
        if every
        else NO_FRONT
    ]
    sentences += [_place(p, every, front) for p in every if p.family == "prunet"]
    predicted = [p for p in every if p.latency.kind == "predicted" and p.family == "other"]
    if predicted:
        error = max(p.latency.high / p.latency.ms for p in predicted) - 1
        # What has published times is fitted to them, all others to blocks measured by themselves.
        published = predicted[0].latency.conditions.device in published_devices()
        fitted = ", to which the model is fitted," * published
        sentences.append(
            f"Latencies of families other than GPUNet and PruNet{fitted} may be off by up to "
            f"{100 * error:.0f} %: a smaller difference says nothing."
        )
    more = [p for p in pareto([*every, *extra(entries)]) if p in extra(entries)]
    if more:
        sentences.append(
            f"Networks trained on extra data are left out; {_names(more)} would be on the front."
        )
    return sentences


def _place(p: FrontPoint, every: Sequence[FrontPoint], front: Sequence[FrontPoint]) -> str:
    """Where a network stands: how much slower the next one of its accuracy is, or who beats it."""
    own = f"{p.model} ({p.mean:.1f} % at {p.latency.ms:.3g} ms)"
    others = [q for q in every if q is not p and q.mean >= p.mean]
    if not others:
        return f"{own} is the most accurate."
    q = min(others, key=lambda q: q.latency.ms)
    if p not in front:
        return (
            f"{own} is not on the front: {_name(q)} at {q.input_size} px has {q.mean:.1f} % at "
            f"{q.latency.ms:.3g} ms."
        )
    more = q.latency.ms / p.latency.ms - 1
    within = p.latency.kind == "predicted" and q.latency.low < p.latency.high
    remark = ", within the error of the predictions" * within
    return (
        f"{own} is on the front: the next network that is as accurate, {_name(q)} at "
        f"{q.input_size} px, takes {100 * more:.0f} % longer{remark}."
    )


def _name(p: FrontPoint) -> str:
    return p.model.partition(".")[0]


def _names(found: Sequence[FrontPoint]) -> str:
    """Networks by name, those at several resolutions once."""
    return ", ".join(dict.fromkeys(map(_name, found)))


def failures(entries: Sequence[Entry]) -> str:
    """A line for each network without a latency, with the reason; nothing where there is none."""
    lines = {
        f"* no latency of {e.network.name} at {e.network.input_size} px: {e.failed}\n": None
        for e in entries
        if e.latency is None
    }
    return "".join(lines)


def rows(entries: Sequence[Entry]) -> list[list[str]]:
    """Cells under HEADER: the networks on a front, theirs or all's, and all of the zoo."""
    every = fair(entries)
    fronts = {"all": pareto(every)}
    fronts |= {PUBLISHED_STYLES[f].title: front for f, front in family_fronts(every).items()}
    found = []
    for e in entries:
        if e.latency is None:
            continue
        p = point(e.classifier, e.latency)
        on = [title for title, front in fronts.items() if p in front]
        if on or p.family in ("prunet", "gpunet"):
            found.append(
                [
                    p.model,
                    str(p.input_size),
                    PUBLISHED_STYLES[p.family].title,
                    f"{p.mean:.1f}",
                    f"{p.latency.ms:.3f}",
                    f"{p.latency.low:.3f} to {p.latency.high:.3f}{' ~' * bool(p.latency.note)}",
                    ", ".join(on),
                    _teacher(e),
                ]
            )
    return found


def _teacher(e: Entry) -> str:
    teacher = e.classifier.teacher
    return "distillation" + f" ({teacher})" * (teacher != "yes") if teacher else ""


def text(entries: Sequence[Entry]) -> str:
    """Table, failures and verdict for a terminal."""
    title = f"published top-1 against latency {conditions(entries)}; {tilde(entries)}"
    table = text_table(title, HEADER, rows(entries))
    return f"{table}\n{failures(entries)}" + "\n".join(verdict(entries))


def tilde(entries: Sequence[Entry]) -> str:
    """What the sign at a latency says."""
    latency = next(e.latency for e in entries if e.latency)
    return f"~ is {NOTES[latency.kind]}"


def markdown(entries: Sequence[Entry]) -> str:
    """Table and failures for a page."""
    table = markdown_table(HEADER, [[f"`{r[0]}`", *r[1:]] for r in rows(entries)])
    what = "Networks on their family's front or on that of all, and all of the zoo"
    return f"{what}; {tilde(entries)}.\n\n{table}\n{failures(entries)}".rstrip("\n") + "\n"


def figure_data(entries: Sequence[Entry]) -> tuple[Any, ...]:
    """Arguments of `plot.draw_published`."""
    return fair(entries), conditions(entries), TITLE, extra(entries)
