"""Bilinear warps of images that can be differentiated twice.

PyTorch's `grid_sample` has no second derivative. A warp is linear in the image, so its gradient is
the transposed warp, whose gradient is the warp again. Two functions therefore differentiate each
other. The code of StyleGAN 2 ADA has the same solution.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BILINEAR, _REFLECTION = 0, 2  # as PyTorch's operators number them


def warp(x: Tensor, matrices: Tensor) -> Tensor:
    """Returns images like ``x`` [N, C, H, W], each warped; edges are reflected.

    Args:
        x: images.
        matrices: maps from places in the new image to places in the old one, from -1 to 1: [N, 2,
            3]. They get no gradient.
    """
    grid = F.affine_grid(matrices.to(x.dtype), list(x.shape), align_corners=False)
    out: Tensor = _Warp.apply(x, grid)  # type: ignore[no-untyped-call]
    return out


class _Warp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:  # noqa: ANN401 - as PyTorch calls it
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, "bilinear", "reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - likewise
        (grid,) = ctx.saved_tensors
        return _Transposed.apply(gradients[0], grid, ctx.shape), None  # type: ignore[no-untyped-call]


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:  # noqa: ANN401 - likewise
        ctx.save_for_backward(grid)
        like = gradient.new_zeros(shape)  # the operator reads only its shape
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            gradient, like, grid, _BILINEAR, _REFLECTION, False, [True, False]
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - likewise
        (grid,) = ctx.saved_tensors
        return _Warp.apply(gradients[0], grid), None, None  # type: ignore[no-untyped-call]
