"""Tests of imagemint.server.repository.scan, which reads the repository without opening files."""

import os
import shutil

from tiny_bundles import write_bundle

from imagemint.server.repository.scan import read_signature, scan


def test_scan_finds_numbered_versions(tmp_path):
    """The scan gives models by name and versions as numbers."""
    for version in (10, 9):
        write_bundle(tmp_path, "tiny", version)
    write_bundle(tmp_path, "other")
    found = scan(tmp_path).versions
    assert {name: list(versions) for name, versions in found.items()} == {
        "other": [1],
        "tiny": [9, 10],
    }


def test_signature_changes_with_the_files(tmp_path):
    """Changed content, a new file or a replaced file change the signature.

    A second scan does not.
    """
    directory = write_bundle(tmp_path)
    seen = [read_signature(directory)]
    assert read_signature(directory) == seen[0]

    def differs():
        seen.append(read_signature(directory))
        return seen[-1] not in seen[:-1]

    (directory / "card.md").write_text("# another card, longer than the one before\n")
    assert differs()
    (directory / "samples.png").write_bytes(b"")
    assert differs()
    shutil.copy2(directory / "model.onnx", directory / "new")
    os.replace(directory / "new", directory / "model.onnx")  # noqa: PTH105 - the system call itself
    assert differs()


def test_missing_directory_has_a_signature(tmp_path):
    """A removed directory and a broken link have a signature."""
    assert read_signature(tmp_path / "gone") == ()
    (tmp_path / "link").symlink_to("nowhere")
    assert read_signature(tmp_path) == (("link", -1, 0, 0, 0),)
