"""Runs the networks forwards, in a precision, and compiled or not.

Weights, gradients, moments and averages are float32 whatever the precision, and so is all that
follows a pass: features, logits, losses, the norms of gradient penalties and what the terms compute
from them. Under bf16 the convolutions and dense layers within a pass, and thereby the two backward
passes of a penalty, are bfloat16, whose exponents are those of float32: no loss has to be scaled.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from imagemint.training.networks.players import Discriminator, draw

Precision = Literal["fp32", "bf16"]

_COMPARISONS = 10


def choose_precision(device: torch.device) -> Precision:
    """Returns bf16 on a GPU that supports it, otherwise fp32."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def compare_precisions(device: torch.device) -> float:
    """Returns how long bf16 takes in comparison with fp32: 2.0 means twice as long.

    It measures the two passes of a convolution, in half a second or less. The instructions that
    a processor has do not tell: with ``amx_bf16`` bf16 is faster, without any it takes many times
    as long, and with ``avx512_bf16`` alone either of them can be faster.

    Do not ask for a device for which `choose_precision` returns bf16: on a GPU, the convolution is
    so small that the starts of kernels take longer, of which bf16 has more.
    """
    # Nothing is drawn at random, because a run would then draw other numbers.
    weight = torch.ones(64, 64, 3, 3, device=device, requires_grad=True)
    x = torch.ones(16, 64, 16, 16, device=device, requires_grad=True)
    times: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    # Other programs hardly change the CPU time of one thread. Several threads wait for each other,
    # and spin meanwhile.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with _one_thread():
        for _ in range(1 + _COMPARISONS):
            for precision, seconds in times.items():
                started = clock()
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    result = functional.conv2d(x, weight, padding=1)
                result.sum().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(clock() - started)
    # The first passes load libraries and compile kernels; other programs slow down single ones.
    return min(times["bf16"][1:]) / min(times["fp32"][1:])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Passes:
    """Runs networks forwards.

    Args:
        precision: precision of convolutions and dense layers.
        compiled: whether PyTorch compiles the passes, except for those that are differentiated
            twice, which its compiler does not support.
        device_type: ``cpu`` or ``cuda``.
    """

    def __init__(
        self, precision: Precision = "fp32", *, compiled: bool = False, device_type: str = "cpu"
    ) -> None:
        self.precision = precision
        self.compiled = compiled
        self._device_type = device_type
        self._draw = torch.compile(draw) if compiled else draw
        self._discriminate = torch.compile(_discriminate) if compiled else _discriminate

    def draw(self, G: nn.Module, z: Tensor, c: Tensor | None) -> Tensor:
        """Returns images float32 [N, C, H, W] for ``z`` [N, z_dim] and ``c`` int64 [N] if any."""
        with self._autocast():
            images = self._draw(G, z, c)
        return images.float()

    def compute_features(
        self, D: Discriminator, x: Tensor, c: Tensor | None, *, double_backward: bool = False
    ) -> Tensor:
        """Returns D's features float32 [N, F] of ``x`` [N, C, H, W] with condition ``c`` [N].

        With ``double_backward``, gradients with respect to ``x`` can be differentiated.
        """
        with self._autocast():
            phi = (_discriminate if double_backward else self._discriminate)(D, x, c)
        return phi.float()

    def run(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        """Returns the output of a network as float32; the network is not compiled."""
        with self._autocast():
            result: Tensor = network(*inputs)
        return result.float()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device_type, torch.bfloat16)


def _discriminate(D: Discriminator, x: Tensor, c: Tensor | None) -> Tensor:
    return D.phi(x, c)


PLAIN = Passes()
