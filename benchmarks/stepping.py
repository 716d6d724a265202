"""A process that takes training steps, or does their products alone, each time it is asked to: for `benchmarks.step`.

    python stepping.py '{"preset": "table2-L3", "batch": 128, "threads": 2, "alone": false}'

It reads a line for each step from its input, and answers with the seconds that it took. The first line it prints says
that it is ready, and how much memory the steps have needed beside what was there before them. It imports nothing but
the library, so that it can run with an earlier version of that.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from hdvae.config import parse
from hdvae.experiment.experiment import Experiment
from hdvae.experiment.presets import expanded
from hdvae.training.state import TrainState
from hdvae.training.step import train_step

IMAGE = (28, 28)
DENSE = {
    "blocks": "dense",
    "width": 192,
    "depth": 1,
    "dropout": 0.1,
    "layers": [{"variables": 16, "classes": 256}, {"variables": 8, "classes": 64}],
}
"""The network of the first study."""
aten = torch.ops.aten
PRODUCTS = (
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.addmm.default,
    aten.mm.default,
    aten.bmm.default,
    aten.bmm.out,
)
TRIALS = 3
"""Times that each form of a product is tried, to choose the best."""

Act = Callable[[], object]


def experiment(chosen: dict[str, Any]) -> Experiment:
    """The experiment whose steps are taken: a preset of the paper, or the network of the first study."""
    plain: dict[str, Any] = {"data": {"name": "mnist5k"}, "evaluation": {"every": 10_000, "images": 1}}
    plain["training"] = {
        "steps": 10_000,
        "batch_size": chosen["batch"],
        "temperature": 0.5,
        **chosen.get("training", {}),
    }
    name = chosen["preset"]
    if name.startswith("dense"):
        plain["model"] = DENSE | {"latent": "normal" if name.endswith("-normal") else "categorical"}
    else:
        plain |= {"preset": name, "model": chosen.get("model", {})}
    return parse(Experiment, expanded(plain), "benchmarks.step")


def training(chosen: dict[str, Any]) -> Act:
    """A function that takes a training step on random images."""
    state = TrainState.fresh(experiment(chosen), IMAGE, seed=0, device=torch.device("cpu"))
    batch = torch.bernoulli(torch.full((chosen["batch"], *IMAGE), 0.2))
    return lambda: train_step(state, batch)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the convolutions and matrix products that are done inside it, with the shapes of their arguments.

    Attributes:
        products: how often each was done.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[tuple[Any, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.products[func, json.dumps(tree_map(_described, [list(args), kwargs or {}]))] += 1
        return func(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "stride": list(value.stride())}
    return value


def _made(value: Any) -> Any:
    """Arguments as they were described, with random numbers."""
    if isinstance(value, dict) and value.keys() == {"shape", "stride"}:
        return torch.empty_strided(value["shape"], value["stride"]).normal_()
    if isinstance(value, dict):
        return {key: _made(one) for key, one in value.items()}
    return [_made(one) for one in value] if isinstance(value, list) else value


def forms(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Act]:
    """The forms in which a product can be done: a convolution channels first, channels last, or as matrix products."""
    acts: list[Act] = [lambda: func(*args, **kwargs)]
    if func not in PRODUCTS[:2]:
        return acts
    for layout in (torch.contiguous_format, torch.channels_last):

        def laid_out(value: Any, layout: torch.memory_format = layout) -> Any:
            return value.contiguous(memory_format=layout) if isinstance(value, Tensor) and value.dim() == 4 else value

        changed = [laid_out(value) for value in args]
        acts.append(lambda changed=changed: func(*changed))  # type: ignore[misc]
    weight = args[1] if func is aten.convolution.default else args[2]
    if list(weight.shape[2:]) == [1, 1]:
        acts.append(_as_products(func, args))
    return acts


def _as_products(func: Any, args: Sequence[Any]) -> Act:
    """A convolution of 1 × 1 pixel as matrix products."""

    def rows(features: Tensor) -> Tensor:
        return features.permute(0, 2, 3, 1).flatten(0, 2).contiguous()

    if func is aten.convolution.default:
        x, filters = rows(args[0]), args[1].flatten(1)
        return lambda: torch.addmm(args[2], x, filters.T)
    gradient, x, filters = rows(args[0]), rows(args[1]), args[2].flatten(1)
    wanted = args[10]
    return lambda: (
        gradient @ filters if wanted[0] else None,
        gradient.T @ x if wanted[1] else None,
        gradient.sum(0) if wanted[2] else None,
    )


def alone(chosen: dict[str, Any]) -> Act:
    """A function that does the convolutions and products of a training step alone, each in its best form."""
    step = training(chosen)
    step()
    with Recorder() as recorder:
        step()
    acts: list[tuple[int, Act]] = []
    for (func, described), count in recorder.products.items():
        args, kwargs = _made(json.loads(described))
        acts.append((count, min(forms(func, args, kwargs), key=_fastest)))

    def products() -> None:
        for count, act in acts:
            for _ in range(count):
                act()

    return products


def _fastest(act: Act) -> float:
    """Seconds of the fastest of some trials, after one that is not timed."""
    act()
    return min(_timed(act) for _ in range(TRIALS))


def _timed(act: Act) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def memory(kind: str) -> float:
    """Resident memory of this process in MB: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1000


def main() -> None:
    """Serve the process that has started this one."""
    chosen = json.loads(sys.argv[1])
    torch.set_num_threads(chosen["threads"])
    with suppress(ModuleNotFoundError):  # earlier versions set nothing
        importlib.import_module("hdvae.training.process").prepare_process()
    before = memory("VmRSS")
    act = alone(chosen) if chosen["alone"] else training(chosen)
    with torch.set_grad_enabled(not chosen["alone"]):
        act()
        act()
        print(json.dumps({"megabytes": memory("VmHWM") - before}), flush=True)
        for _ in sys.stdin:
            print(_timed(act), flush=True)


if __name__ == "__main__":
    main()
