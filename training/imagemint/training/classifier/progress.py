"""The state of a classifier while it trains, on disk after each epoch."""

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imagemint.training.durable import flush

_log = logging.getLogger(__name__)

_NAME = ".progress.safetensors"


class Progress:
    """The state of a classifier's training: weights, moments, learning rate and dropout.

    Args:
        out: directory of the classifier; created when something is saved.
        model: the classifier.
        optimizer: its optimiser.
        cycle: the schedule of its learning rate.
        identity: digest of recipe and data. A state of others is ignored.
    """

    def __init__(
        self,
        out: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cycle: torch.optim.lr_scheduler.LRScheduler,
        identity: str,
    ) -> None:
        self._path = out / _NAME
        self._model, self._optimizer, self._cycle = model, optimizer, cycle
        self._identity = identity

    def save(self, steps: int) -> None:
        """Writes the state after this number of steps.

        It replaces the previous state with one rename.
        """
        state = self._optimizer.state_dict()
        tensors = {f"model/{name}": each for name, each in self._model.state_dict().items()}
        for index, moments in state["state"].items():
            tensors |= {f"moments/{index}/{name}": moment for name, moment in moments.items()}
        tensors["rng"] = torch.get_rng_state()
        description = {
            "steps": steps,
            "identity": self._identity,
            "groups": state["param_groups"],
            "cycle": self._cycle.state_dict(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        part = self._path.with_suffix(".part")
        save_file(dense, part, {"about": json.dumps(description)})
        flush([part])
        part.replace(self._path)
        flush([self._path.parent])

    def restore(self) -> int:
        """Loads the saved state and returns its number of steps; 0 without a suitable state."""
        if not self._path.exists():
            return 0
        try:
            with safe_open(self._path, "pt") as file:
                description = json.loads(file.metadata()["about"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            _log.warning(
                "%s is damaged (%s); training starts from the beginning", self._path, error
            )
            return 0
        if description["identity"] != self._identity:
            _log.warning(
                "%s belongs to another recipe or data set; training starts from the beginning",
                self._path,
            )
            return 0
        self._model.load_state_dict(_select(tensors, "model/"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, each in _select(tensors, "moments/").items():
            index, _, moment = name.partition("/")
            moments.setdefault(int(index), {})[moment] = each
        self._optimizer.load_state_dict({"state": moments, "param_groups": description["groups"]})
        self._cycle.load_state_dict(description["cycle"])
        torch.set_rng_state(tensors["rng"])
        steps: int = description["steps"]
        _log.info("resuming after %d steps", steps)
        return steps

    def remove(self) -> None:
        """Removes the state when the training has ended."""
        self._path.unlink(missing_ok=True)


def _select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
