"""A network's worth: how well it does after a short training from scratch.

Networks are compared by hundreds of such trainings, each of some seconds or a minute on networks
whose steps take milliseconds. So this is a plain loop over crops that lie on the device, without a
Runner, its hooks and its loaders.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import OneCycleLR

from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import ArchSpec
from prunet_det.training.crops import DeviceCrops
from prunet_det.training.divergence import DivergedError
from prunet_det.training.optimizer import TimmMuon
from prunet_det.training.repeatable import one_thread
from prunet_det.utils.errors import InputError
from prunet_det.zoo import create

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class ShortRecipe:
    """How a network is trained and scored.

    Attributes:
        iterations: Number of steps.
        batch_size: Number of crops in a step.
        lr: Highest learning rate; it rises and falls as a cosine (`OneCycleLR`).
        warmup: Share of the steps in which it rises, 0..1.
        weight_decay: Decoupled weight decay.
        optimizer: `adamw`, or `muon` for the matrices and AdamW for the rest.
        max_norm: Greatest norm of the gradients; larger ones are scaled down.
        ema: Decay of the averaged weights that are scored, 0..1; it grows to this with the steps.
        norm_batches: Batches that the statistics of the averaged weights' batch norms are taken
            from before they are scored.
        label_smoothing: Share of the target that is spread over all classes, 0..1.
        marks: Iterations after which the network is scored, beside the last.
        capture: On a GPU, record a step as a CUDA graph, which costs the host one launch; AdamW
            only. On a CPU it has no effect.
    """

    iterations: int = 800
    batch_size: int = 64
    lr: float = 2e-3
    warmup: float = 0.2
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    max_norm: float = 5.0
    ema: float = 0.98
    norm_batches: int = 10
    label_smoothing: float = 0.0
    marks: tuple[int, ...] = (200, 400, 800)
    capture: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise InputError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}."
            )
        if self.capture and self.optimizer != "adamw":
            raise InputError("capture=True records steps of adamw only; leave one of them out.")
        if min(self.iterations, self.batch_size, self.norm_batches) < 1:
            raise InputError("iterations, batch_size and norm_batches must be 1 or more.")
        if not 0 <= self.warmup <= 1 or self.lr <= 0:
            raise InputError("warmup must be a share of the steps, 0..1, and lr above 0.")

    @property
    def scored(self) -> tuple[int, ...]:
        """Iterations after which the network is scored, in order."""
        marks = {mark for mark in self.marks if 0 < mark < self.iterations}
        return (*sorted(marks), self.iterations)


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """What a short training gave.

    Attributes:
        curve: Top-1 and cross-entropy of the averaged weights, by iteration.
        seconds: Seconds of training and scoring.
        net: The averaged weights, in eval mode, on the device.
    """

    curve: dict[int, tuple[float, float]]
    seconds: float
    net: nn.Module

    @property
    def top1(self) -> float:
        """Top-1 at the end."""
        return self.curve[max(self.curve)][0]

    @property
    def loss(self) -> float:
        """Cross-entropy at the end."""
        return self.curve[max(self.curve)][1]


def short_run(
    spec: ArchSpec, recipe: ShortRecipe, train: DeviceCrops, score: DeviceCrops, seed: int
) -> ShortRun:
    """Trains a network from scratch and scores it; on a CPU with one thread.

    So its result is the same however many of them run at once.

    Args:
        spec: The network.
        recipe: How long and how.
        train: Crops to train on; order and augmentation are drawn anew from `seed`.
        score: Crops to score on, unaugmented.
        seed: Seed of weights, order and augmentation. On a CPU the same seed gives the same bytes.

    Raises:
        DivergedError: If loss or weights are not finite.
    """
    with one_thread(on_cpu=not train.images.is_cuda):
        return _short_run(spec, recipe, train, score, seed)


def _short_run(
    spec: ArchSpec, recipe: ShortRecipe, train: DeviceCrops, score: DeviceCrops, seed: int
) -> ShortRun:
    start = time.perf_counter()
    device = train.images.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = create(spec, num_classes=len(train.classes))
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = train.with_seed(seed)
    averaged = copy.deepcopy(net).requires_grad_(False)
    averages, weights = ([p.detach() for p in n.parameters()] for n in (averaged, net))
    step = _Step(net, recipe)
    run = step.recorded() if step.captured else step
    curve: dict[int, tuple[float, float]] = {}
    for i in range(recipe.iterations):
        run(*train.batch(i, recipe.batch_size))
        share = max(1 - recipe.ema, 9 / (10 + i))  # as TensorFlow's: early weights are forgotten
        torch._foreach_lerp_(averages, weights, share)
        if i + 1 in recipe.scored:
            # Batches of the steps to come, which the weights have not been fitted to.
            ahead = range(i + 1, i + 1 + recipe.norm_batches)
            batches = (train.batch(j, recipe.batch_size)[0] for j in ahead)
            reestimate_norms(averaged, batches)
            curve[i + 1] = evaluate(averaged, score)
            if not math.isfinite(curve[i + 1][1]):
                raise DivergedError(
                    f"the short training of {spec.name} diverged: the loss is {curve[i + 1][1]} "
                    f"after {i + 1} iterations, learning rate {recipe.lr:g}. Lower the recipe's lr."
                )
    return ShortRun(curve=curve, seconds=time.perf_counter() - start, net=averaged)


@torch.no_grad()
def evaluate(net: nn.Module, crops: DeviceCrops) -> tuple[float, float]:
    """Top-1 (0..1) and mean cross-entropy of a network in eval mode."""
    hits, losses = [], []
    for images, labels in crops.scored():
        logits = net(images)
        hits.append((logits.argmax(1) == labels).sum())
        losses.append(cross_entropy(logits, labels, reduction="sum"))
    totals = torch.stack([torch.stack(hits).sum().float(), torch.stack(losses).sum()])
    top1, loss = (totals / len(crops)).tolist()
    return top1, loss


class _Step:
    """A step of the optimizer, recorded as a CUDA graph if the recipe says so.

    Args:
        net: The network, on its device; put in training mode.
        recipe: Recipe of the training.
    """

    def __init__(self, net: nn.Module, recipe: ShortRecipe) -> None:
        self.net, self.recipe = net.train(), recipe
        self.parameters = list(net.parameters())
        self.captured = recipe.capture and self.parameters[0].is_cuda
        self.optimizer = self._optimizer()
        total = recipe.iterations + 1
        self.schedule = OneCycleLR(
            self.optimizer,
            max_lr=recipe.lr,
            total_steps=total,
            pct_start=max(recipe.warmup, 2 / total),  # it divides by the length of the rise
            cycle_momentum=False,
            div_factor=20.0,
            final_div_factor=50.0,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        r = self.recipe
        if r.optimizer == "muon":
            return TimmMuon(
                self.parameters,
                lr=r.lr,
                weight_decay=r.weight_decay,
                adjust_lr_fn="match_rms_adamw",
                nesterov=True,
            )
        # A recorded step reads the learning rate from the device.
        lr = torch.tensor(r.lr, device=self.parameters[0].device) if self.captured else r.lr
        return torch.optim.AdamW(
            self.parameters,
            lr=lr,
            weight_decay=r.weight_decay,
            fused=True,
            capturable=self.captured,
        )

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        self._run(images, labels)
        self.schedule.step()

    def _run(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        logits = self.net(images)
        cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing).backward()
        clip_grad_norm_(self.parameters, self.recipe.max_norm, foreach=True)
        self.optimizer.step()

    def recorded(self) -> Callable[[Tensor, Tensor], None]:
        """The same step as a CUDA graph, from the fourth on; the first three set all states up.

        The step does not hold its recording, whose memory is free as soon as the caller lets it go.
        """
        stream, graph, done = torch.cuda.Stream(), torch.cuda.CUDAGraph(), 0
        inputs: list[Tensor] = []

        def run(images: Tensor, labels: Tensor) -> None:
            nonlocal done
            if done < 3:
                # All on one stream: gradients are added up where their parameters were first used.
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    self._run(images, labels)
                torch.cuda.current_stream().wait_stream(stream)
                done += 1
            else:
                if not inputs:
                    inputs[:] = images.clone(memory_format=torch.preserve_format), labels.clone()
                    with torch.cuda.graph(graph, stream=stream):
                        self._run(*inputs)
                torch._foreach_copy_(inputs, [images, labels])
                graph.replay()
            self.schedule.step()

        return run
