"""The checks of a CPU and of a GPU: the same rows, small and large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from headwater.llm.selftest import generation, planned, training
from headwater.llm.selftest.checks import Check
from headwater.llm.selftest.place import Place
from headwater.llm.selftest.planned import Planned
from headwater.llm.selftest.training import MOVED, TOLERANCE, Precision, Sizes

STAGES = (0, 1, 2, 3)
SMALL, LARGE = Sizes(), Sizes(depth=4, width=256, vocabulary=8192, row_length=512, batch=8, document=129)
ON_CPU = Planned(depth=2, row_length=128, vocabulary=512, batch=8, micro_batch=4)
ON_GPU = [Planned(depth, row_length=1024, vocabulary=32_768, batch=64, micro_batch=1) for depth in (12, 24)]


def of_cpu(cpu: Place, sizes: Sizes = SMALL) -> Iterator[Check]:
    """The checks of a CPU, in at most a minute on two cores."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    yield from _on(cpu, sizes, precisions)
    bound = TOLERANCE["fp32"]
    yield Check("checkpoint moved: ZeRO 3 to ZeRO 1", partial(training.moved, sizes, cpu, cpu, (3, 1), bound))
    yield Check(f"plan, depth {ON_CPU.depth}", partial(planned.on_cpu, ON_CPU))


def of_gpu(gpu: Place, cpu: Place, sizes: Sizes = LARGE) -> Iterator[Check]:
    """The checks of one GPU, in at most eight minutes."""
    precisions: tuple[Precision, ...] = ("bf16", "fp16")
    yield from _on(gpu, sizes, precisions)
    for name, first, second in (("GPU to CPU", gpu, cpu), ("CPU to GPU", cpu, gpu)):
        way = partial(training.moved, SMALL, first, second, (3, 1), MOVED)
        yield Check(f"checkpoint moved: {name}", way)
    for each in ON_GPU:
        yield Check(f"plan, depth {each.depth}", partial(planned.on_gpu, each, gpu))


def _on(place: Place, sizes: Sizes, precisions: tuple[Precision, ...]) -> Iterator[Check]:
    for precision in precisions:
        for stage in STAGES:
            make = partial(training.as_plain, sizes, place, precision, stage)
            yield Check(f"training: ZeRO {stage}, {precision}", make)
    shallow = replace(sizes, depth=1)  # compiling takes 20 s of two cores for a layer of a CPU
    yield Check("torch.compile", partial(training.compiled, shallow, place, precisions[0]))
    for precision in precisions:
        make = partial(training.packed, sizes, place, precision)
        yield Check(f"packed attention, {precision}", make)
    for precision in precisions:
        make = partial(generation.generated, sizes, place, precision)
        yield Check(f"generation, {precision}", make)
