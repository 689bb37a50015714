"""The model repository: what is on disk, what of it serves, and why the rest does not."""

from imagemint.server.repository.policy import Policies, VersionPolicy
from imagemint.server.repository.repository import ModelRepository
from imagemint.server.repository.versions import Model, ServedVersion, State, Version

__all__ = [
    "Model",
    "ModelRepository",
    "Policies",
    "ServedVersion",
    "State",
    "Version",
    "VersionPolicy",
]
