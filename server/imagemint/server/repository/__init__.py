"""The model repository: finds, loads, serves and unloads versions of models."""

from imagemint.server.repository.repository import ModelRepository
from imagemint.server.repository.served_digests import ServedDigests
from imagemint.server.repository.shared_log import SharedLog
from imagemint.server.repository.shared_trials import SharedTrials, TrialRunner
from imagemint.server.repository.source import LocalDirectory, Source
from imagemint.server.repository.version_policy import Policies, VersionPolicy
from imagemint.server.repository.versions import Model, ServedVersion, State, Version

__all__ = [
    "LocalDirectory",
    "Model",
    "ModelRepository",
    "Policies",
    "ServedDigests",
    "ServedVersion",
    "SharedLog",
    "SharedTrials",
    "Source",
    "State",
    "TrialRunner",
    "Version",
    "VersionPolicy",
]
