"""The state of a run: everything that a step changes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imagemint.training.errors import CheckpointError

# attribute -> prefix of its tensors in a checkpoint. The prefixes never change: old runs resume.
_MODULES = {"G": "G", "D": "D", "G_ema": "G_ema", "losses": "game"}


@dataclass
class TrainingState:
    """The state that a step changes.

    Attributes:
        G: generator that trains, or translator.
        D: discriminator, or several as one module.
        G_ema: moving average of G.
        opt_G: optimiser of G.
        opt_D: optimiser of D.
        losses: losses of both networks, including buffers.
        images_seen: real images shown to D so far.
        step: steps done so far.
        rollbacks: how often the run went back to a good checkpoint.
        collapsed_since: images seen when the samples became nearly equal; None while they vary.
        unlogged: figures of each step since the last row of the log, by name.
    """

    G: nn.Module
    D: nn.Module
    G_ema: nn.Module
    opt_G: torch.optim.Optimizer
    opt_D: torch.optim.Optimizer
    losses: nn.Module = field(default_factory=nn.Module)
    images_seen: int = 0
    step: int = 0
    rollbacks: int = 0
    collapsed_since: int | None = None
    unlogged: dict[str, list[float]] = field(default_factory=dict)

    def collect_tensors(self) -> dict[str, Tensor]:
        """Returns every tensor by a flat name, such as ``G/embed.weight``."""
        flat = {
            f"{prefix}/{name}": tensor
            for part, prefix in _MODULES.items()
            for name, tensor in getattr(self, part).state_dict().items()
        }
        for part in ("opt_G", "opt_D"):
            for index, moments in getattr(self, part).state_dict()["state"].items():
                flat |= {f"{part}/{index}/{name}": moment for name, moment in moments.items()}
        # safetensors stores dense row-major tensors; the loop sets the memory format.
        return {name: tensor.detach().cpu().contiguous() for name, tensor in flat.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Loads the result of `collect_tensors`.

        Raises:
            CheckpointError: names or shapes do not fit these networks.
        """
        try:
            for part, prefix in _MODULES.items():
                getattr(self, part).load_state_dict(select_tensors(tensors, prefix))
            for part in ("opt_G", "opt_D"):
                optimizer = getattr(self, part)
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                moments: dict[int, dict[str, Tensor]] = {}
                for name, tensor in select_tensors(tensors, part).items():
                    index, _, moment = name.partition("/")
                    laid_out = _match_layout(parameters[int(index)], tensor)
                    moments.setdefault(int(index), {})[moment] = laid_out
                optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        except (RuntimeError, LookupError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the networks: {error}") from error


def _match_layout(parameter: Tensor, moment: Tensor) -> Tensor:
    """Returns ``moment`` with the strides of its parameter; step counts are unchanged.

    Fused Adam walks through parameter, gradient and moments by memory address. A row-major moment
    of a channels-last parameter would silently pair each weight with another weight's moment.
    """
    return moment if moment.ndim == 0 else torch.empty_like(parameter).copy_(moment)


def select_tensors(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with `part/`, without that prefix."""
    prefix = f"{part}/"
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
