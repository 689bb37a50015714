"""Tests of the model repository: independence of bundles, and resolving names and versions."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from held_backend import HeldBackend
from tiny_bundles import write_bundle

from imagemint.engine.errors import ModelNotFound, ModelNotReady, VersionNotFound
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.server.repository import State


def truncate(directory):
    """Truncates a bundle's model file to half."""
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_invalid_bundle_does_not_affect_others(tmp_path, new_repository):
    """Other versions are READY. The reason of the refused one contains no path."""
    for name, version in (("good", 1), ("tiny", 1), ("tiny", 2)):
        write_bundle(tmp_path, name, version)
    truncate(tmp_path / "tiny/2")
    repository = new_repository(tmp_path)
    assert repository.resolve("good").version == 1
    assert repository.resolve("tiny").version == 1
    refused = repository.get_model("tiny").versions[2]
    assert refused.state is State.FAILED
    assert "truncated or altered" in refused.reason
    assert str(tmp_path) not in refused.reason


def test_newest_ready_version_is_the_default(tmp_path, new_repository):
    """Versions are compared as numbers, and all can be requested by number."""
    for version in (2, 10, 9):
        write_bundle(tmp_path, "tiny", version, weights_seed=version)
    repository = new_repository(tmp_path)
    assert repository.resolve("tiny").version == 10
    assert repository.resolve("tiny", "9").version == 9
    assert list(repository.get_model("tiny").versions) == [2, 9, 10]


def test_unknown_model_is_not_found(models, new_repository):
    """The error lists the models that exist."""
    with pytest.raises(ModelNotFound) as caught:
        new_repository(models, load=False).resolve("nobody")
    assert caught.value.known == ("bounded", "people", "plain", "styled", "tiny")


@pytest.mark.parametrize(
    "version", ["2", "0", "-1", "01", "+1", "1.0", "one", "\u0661", "9" * 5_000]
)
def test_unknown_version_is_not_found(models, new_repository, version):
    """A version has one spelling. Any other text, of any length, is unknown."""
    with pytest.raises(VersionNotFound) as caught:
        new_repository(models, load=False).resolve("tiny", version)
    assert caught.value.known == ("1",)


@pytest.mark.parametrize(
    ("wanted", "name", "version"),
    [(None, "other", ""), (None, "other", "4"), (None, "tiny", "7"), (["more"], "tiny", "")],
)
def test_version_of_another_worker_is_not_ready(tmp_path, new_repository, wanted, name, version):
    """A model, a version or a loaded model that only another worker has may come here, too."""
    write_bundle(tmp_path, "tiny")
    elsewhere = {}
    repository = new_repository(tmp_path, wanted=wanted, served_elsewhere=lambda: elsewhere)
    with pytest.raises((ModelNotFound, VersionNotFound)):
        repository.resolve(name, version)
    elsewhere |= {"other": [4], "tiny": [1, 7]}
    with pytest.raises(ModelNotReady, match="another worker of the server does") as caught:
        repository.resolve(name, version)
    assert caught.value.retry_delay_s > 0
    assert caught.value.metadata == {"model": name} | ({"version": version} if version else {})
    for unknown in (("nobody", ""), ("tiny", "4"), ("other", "1")):
        with pytest.raises((ModelNotFound, VersionNotFound)):
            repository.resolve(*unknown)


def test_model_of_another_worker_cannot_be_unloaded(models, new_repository):
    """To unload is up to the worker that has it."""
    repository = new_repository(models, load=False, served_elsewhere=lambda: {"other": [1]})
    with pytest.raises(ModelNotFound):
        repository.unload_model("other")


def test_model_is_not_ready_before_its_load(models, new_repository):
    """Until then the error has a retry delay."""
    repository = new_repository(models, load=False)
    with pytest.raises(ModelNotReady, match="still loading") as caught:
        repository.resolve("tiny")
    assert caught.value.retry_delay_s > 0


def test_refused_version_is_not_ready(tmp_path, new_repository):
    """Requested by number or as the only version, it gives its reason."""
    truncate(write_bundle(tmp_path, "tiny"))
    repository = new_repository(tmp_path)
    for version, named in (
        ("", "model 'tiny' is not ready: version 1: "),
        ("1", "version 1 of model 'tiny' is not ready: "),
    ):
        with pytest.raises(ModelNotReady, match=f"^{named}checksum mismatch: "):
            repository.resolve("tiny", version)


def test_other_files_are_ignored(tmp_path, new_repository):
    """Hidden folders, incomplete exports, files and folders without a number are no versions."""
    write_bundle(tmp_path, "tiny")
    write_bundle(tmp_path / ".export-x", "3", 1)
    (tmp_path / "notes/pictures").mkdir(parents=True)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    (tmp_path / "tiny/7").write_text("not a version")
    repository = new_repository(tmp_path, load=False)
    assert {name: list(model.versions) for name, model in repository.models.items()} == {
        "tiny": [1]
    }


@pytest.mark.parametrize("stray", ["01", "v1", "1.0", "\uff11", "draft", "model.onnx"])
def test_folder_that_is_no_version_is_reported(tmp_path, new_repository, caplog, stray):
    """A bundle in such a folder is logged, and listed if its model has no version."""
    write_bundle(tmp_path, "tiny")
    if stray == "model.onnx":
        (tmp_path / "other").mkdir()
        (tmp_path / "other/model.onnx").write_bytes(b"")
    else:
        write_bundle(tmp_path, "other", stray)
        write_bundle(tmp_path, "tiny", stray)
    repository = new_repository(tmp_path)
    assert repository.get_model("tiny").problem == ""
    assert stray in repository.get_model("other").problem
    with pytest.raises(ModelNotReady, match="it contains no version"):
        repository.resolve("other")
    with pytest.raises(ModelNotReady, match="it contains no version"):
        repository.resolve("other", "1")
    assert f"other/{stray} is left out" in caplog.text
    shutil.rmtree(tmp_path / "other")
    repository.refresh()
    assert list(repository.models) == ["tiny"]


def test_unreadable_entries_are_listed(tmp_path, new_repository):
    """Broken and circular links of models and versions are FAILED, and the others serve."""
    write_bundle(tmp_path, "tiny")
    for loop in ("loop", "tiny/2", "tiny/03"):
        (tmp_path / loop).symlink_to(tmp_path / loop)
    for dangling in ("dangling", "tiny/4"):
        (tmp_path / dangling).symlink_to(tmp_path / "nowhere")
    (tmp_path / "tiny/5").symlink_to("/dev/null")
    repository = new_repository(tmp_path)
    states = {
        number: version.state for number, version in repository.get_model("tiny").versions.items()
    }
    failed = dict.fromkeys((2, 4, 5), State.FAILED)
    assert states == {1: State.READY, **failed}
    assert "symbolic links" in repository.get_model("tiny").versions[2].reason
    assert "symbolic links" in repository.get_model("loop").problem
    assert repository.get_model("dangling").problem == "broken link"
    with pytest.raises(ModelNotReady, match="broken link"):
        repository.resolve("dangling")
    (tmp_path / "loop").unlink()
    write_bundle(tmp_path, "loop")
    repository.refresh()
    assert repository.resolve("loop").version == 1
    assert repository.get_model("loop").problem == ""


def test_name_that_is_not_utf8_is_logged(tmp_path, new_repository, caplog):
    """The entry is skipped and escaped in the log, and the others serve."""
    write_bundle(tmp_path, "tiny")
    for name in (b"caf\xe9/1", b"tiny/v\xff1"):
        (tmp_path / os.fsdecode(name)).mkdir(parents=True)
    repository = new_repository(tmp_path)
    assert list(repository.models) == ["tiny"]
    assert "caf\\xe9 is left out: its name is not UTF-8" in caplog.text
    caplog.text.encode()


def test_unreadable_folder_is_listed(tmp_path, new_repository, monkeypatch):
    """A folder of another user does not prevent the start and is listed with its reason."""
    write_bundle(tmp_path, "tiny")
    (tmp_path / "private").mkdir()
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "private":  # root may read everything, so the error is simulated
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    repository = new_repository(tmp_path)
    assert repository.resolve("tiny").version == 1
    assert repository.get_model("private").problem == "Permission denied"


def test_failed_version_leaves_no_thread(tmp_path, new_repository):
    """A backend that fails its first run is closed, and no thread remains."""
    write_bundle(tmp_path, "good")
    write_bundle(tmp_path, "failing")
    opened = {}

    def open_backend(bundle):
        backend = HeldBackend(OnnxBackend(bundle, device="cpu").run)
        if bundle.spec.name == "failing":
            backend.failure = RuntimeError("secret address 0xdeadbeef")
        opened[bundle.spec.name] = backend
        return backend

    repository = new_repository(tmp_path, open_backend=open_backend)
    failed = repository.get_model("failing").versions[1]
    assert failed.state is State.FAILED
    assert "0xdeadbeef" not in failed.reason
    assert opened["failing"].closed
    assert not opened["good"].closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("failing-")]


def test_failed_batcher_fails_only_its_version(tmp_path, new_repository):
    """The other models serve even if a batcher cannot start."""
    write_bundle(tmp_path, "tiny")

    def open_batcher(bundle, backend):
        raise RuntimeError("can't start new thread")

    repository = new_repository(tmp_path, open_batcher=open_batcher)
    assert repository.get_model("tiny").versions[1].state is State.FAILED


def test_large_images_reduce_the_limit(tmp_path, new_repository):
    """A response stays within its bytes including overhead. One image is always allowed."""
    write_bundle(tmp_path, "large", size=(64, 64, 3))
    write_bundle(tmp_path, "small", size=(4, 4, 1))
    repository = new_repository(tmp_path, max_images=1_000, max_response_bytes=100_000)
    assert repository.resolve("large").max_images == 100_000 // (64 * 64 * 3 + 1536)
    assert repository.resolve("small").max_images == 100_000 // (16 + 1536)
    tight = new_repository(tmp_path, max_response_bytes=10)
    assert tight.resolve("large").max_images == 1


def test_loads_are_measured(tmp_path, new_repository):
    """Served versions have their info and load time, and refused ones are counted."""
    write_bundle(tmp_path, "good")
    truncate(write_bundle(tmp_path, "bad"))
    repository = new_repository(tmp_path)
    values = repository._lifecycle._metrics.registry.get_sample_value
    served = repository.resolve("good")
    assert values(
        "imagemint_model_info",
        {
            "model": "good",
            "version": "1",
            "bundle_sha256": served.bundle.sha256,
            "precision": "fp32",
            "execution_provider": "CPUExecutionProvider",
            "variant": "fp32",
        },
    )
    labels = {"model": "good", "version": "1"}
    assert values("imagemint_model_load_duration_seconds", labels) > 0
    assert values("imagemint_model_load_failures_total", {"model": "bad"}) == 1


def test_close_releases_every_model(tmp_path, new_repository):
    """All instances end, and all backends are closed."""
    write_bundle(tmp_path, "closing")
    repository = new_repository(tmp_path)
    served = repository.resolve("closing")
    repository.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("closing-")]
    assert served.backend._session is None
