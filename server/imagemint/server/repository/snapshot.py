"""An immutable snapshot of the models, swapped on change."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import NoReturn

from imagemint.engine.errors import ModelNotFound, ModelNotReady, VersionNotFound
from imagemint.server.repository.versions import Model, ServedVersion, State, Version
from imagemint.server.telemetry.metrics import Metrics

_RETRY_S = 1.0
_STILL_LOADING = "still loading"
_ELSEWHERE = "this worker does not serve it, but another worker of the server does"


class Catalogue:
    """The models in order of their names. Any thread reads without waiting; a lock guards changes.

    During the start, a model gets no default version while a newer version is loading. Otherwise a
    server that restarts, or one of its workers, would answer with an older version than the others.

    Args:
        metrics: counts the versions that failed.
        pins: the default version by model.
        served_elsewhere: returns the versions that other workers serve, by model. This worker
            refuses them with a retry delay if it does not serve them.
    """

    def __init__(
        self,
        metrics: Metrics,
        pins: Mapping[str, int],
        served_elsewhere: Callable[[], Mapping[str, Collection[int]]] = dict,
    ) -> None:
        self.models: Mapping[str, Model] = {}
        self._served_elsewhere = served_elsewhere
        self._metrics = metrics
        self._pins = pins
        self._starting = True
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []

    def get_model(self, name: str) -> Model:
        """Returns one model.

        Raises:
            ModelNotFound: there is no such model.
            ModelNotReady: only other workers have it.
        """
        return self._find_model(name, "")

    def _find_model(self, name: str, version: str) -> Model:
        models = self.models
        if name not in models:
            self._check_elsewhere(name, version)
            raise ModelNotFound(name, list(models))
        return models[name]

    def get_version(self, name: str, number: int) -> Version | None:
        """Returns one version; None if it does not exist."""
        model = self.models.get(name)
        return model.versions.get(number) if model else None

    def resolve(self, name: str, version: str) -> ServedVersion:
        """Returns the version that serves a request; see `ModelRepository.resolve`."""
        model = self._find_model(name, version)
        if not model.versions:
            raise ModelNotReady(name, model.problem, _RETRY_S)
        if not version:
            return model.default_version or self._raise_no_default(model)
        # Compared as text, because a version has one spelling and int() rejects very long texts.
        found = {str(number): each for number, each in model.versions.items()}.get(version)
        if found is None or not found.is_offered:
            self._check_elsewhere(name, version)
            raise VersionNotFound(name, version, [each.number for each in _list_offered(model)])
        if found.served is None:
            why = found.reason if found.state is State.FAILED else _STILL_LOADING
            raise ModelNotReady(name, why, _RETRY_S, found.number)
        return found.served

    def _raise_no_default(self, model: Model) -> NoReturn:
        offered = _list_offered(model)
        if model.pinned is not None and model.versions:
            pinned = [version for version in offered if version.number == model.pinned]
            if offered and not pinned:
                why = f"version {model.pinned}, its default by default_versions, does not exist"
                raise ModelNotReady(model.name, why, _RETRY_S)
            offered = pinned
        if not offered:
            self._check_elsewhere(model.name, "")
            raise ModelNotFound(
                model.name, [m.name for m in self.models.values() if _list_offered(m)]
            )
        _raise_not_ready(model, offered)

    def _check_elsewhere(self, name: str, version: str) -> None:
        """Raises ModelNotReady if another worker serves what this one does not know."""
        for number in self._served_elsewhere().get(name, ()):
            if not version:
                raise ModelNotReady(name, _ELSEWHERE, _RETRY_S)
            if version == str(number):
                raise ModelNotReady(name, _ELSEWHERE, _RETRY_S, number)

    # --- changes --------------------------------------------------------------------------------

    def put(self, name: str, *versions: Version) -> None:
        """Adds versions; each replaces the version of the same number."""
        with self._lock:
            self._put(name, {version.number: version for version in versions})
        self.notify()

    def end_start(self) -> None:
        """Lets older versions be the default of models whose newest version is still loading."""
        with self._lock:
            self._starting = False
            self.models = {
                name: replace(model, awaits_newest=False) for name, model in self.models.items()
            }
            for name in self.models:
                self._count_serving(name)
        self.notify()

    def exchange(self, name: str, old: Version, new: Version | None) -> None:
        """Replaces `old` by `new`, or removes it for None, unless `old` was replaced before."""
        with self._lock:
            if self.get_version(name, old.number) is not old:
                return
            self._put(name, {old.number: new})
        self.notify()

    def note_problems(self, problems: Mapping[str, str]) -> None:
        """Records why directories cannot be read, and lists those without a known version."""
        with self._lock:
            before = self.models
            models = {
                name: replace(model, problem=problems.get(name, ""))
                for name, model in before.items()
                if model.versions or name in problems
            }
            for name in problems.keys() - models.keys():
                models[name] = replace(self._start_model(name), problem=problems[name])
            if models != before:
                self.models = dict(sorted(models.items()))
                for name in problems.keys() | before.keys():
                    self._count_serving(name)
        if models != before:
            self.notify()

    def _put(self, name: str, changes: Mapping[int, Version | None]) -> None:
        model = self.models.get(name) or self._start_model(name)
        merged = {**model.versions, **changes}
        versions = {number: each for number, each in sorted(merged.items()) if each is not None}
        # A default version stays until a newer one is ready.
        awaits_newest = model.awaits_newest and model.default_version is None
        models = {
            **self.models,
            name: replace(model, versions=versions, awaits_newest=awaits_newest),
        }
        if not versions and not model.problem:
            del models[name]
        self.models = dict(sorted(models.items()))
        self._metrics.count_failed_versions(
            name, sum(v.is_refused for v in versions.values()) if versions else None
        )
        self._count_serving(name)

    def _start_model(self, name: str) -> Model:
        return Model(name, {}, self._pins.get(name), awaits_newest=self._starting)

    def _count_serving(self, name: str) -> None:
        """Exports whether a model serves, unless it is not meant to."""
        model = self.models.get(name)
        is_wanted = model is not None and (model.problem or _list_offered(model))
        serving = model is not None and model.default_version is not None
        self._metrics.set_model_serving(name, serving if is_wanted else None)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls a function on any thread after every change; returns a function that stops it."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def notify(self) -> None:
        """Calls the watchers."""
        for changed in tuple(self._watchers):
            changed()


def _list_offered(model: Model) -> list[Version]:
    return [version for version in model.versions.values() if version.is_offered]


def _raise_not_ready(model: Model, versions: Iterable[Version]) -> NoReturn:
    versions = list(versions)
    if any(version.served for version in versions):  # but a newer one is loading
        raise ModelNotReady(model.name, "its newest version is still loading", _RETRY_S)
    reasons = join_reasons(version for version in versions if version.state is State.FAILED)
    raise ModelNotReady(model.name, reasons or _STILL_LOADING, _RETRY_S)


def join_reasons(versions: Iterable[Version]) -> str:
    """Returns the reasons of versions in one line."""
    return "; ".join(f"version {version.number}: {version.reason}" for version in versions)
