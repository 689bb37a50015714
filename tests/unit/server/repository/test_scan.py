"""What a look at the repository tells, without opening anything."""

import os
import shutil

from tiny_bundles import write_bundle

from imagemint.server.repository.scan import scan, signature_of


def test_scan_finds_versions_by_number(tmp_path):
    """Models by name, versions as numbers and not as text."""
    for version in (10, 9):
        write_bundle(tmp_path, "tiny", version)
    write_bundle(tmp_path, "other")
    found = scan(tmp_path).versions
    assert {name: list(versions) for name, versions in found.items()} == {
        "other": [1],
        "tiny": [9, 10],
    }


def test_signature_changes_with_the_files(tmp_path):
    """Content, a new file, a file replaced by an equal one; not a second look."""
    directory = write_bundle(tmp_path)
    seen = [signature_of(directory)]
    assert signature_of(directory) == seen[0]

    def differs():
        seen.append(signature_of(directory))
        return seen[-1] not in seen[:-1]

    (directory / "card.md").write_text("# another card, longer than the one before\n")
    assert differs()
    (directory / "samples.png").write_bytes(b"")
    assert differs()
    shutil.copy2(directory / "model.onnx", directory / "new")
    os.replace(directory / "new", directory / "model.onnx")  # noqa: PTH105 - the system call itself
    assert differs()


def test_signature_of_what_is_not_there_is_one(tmp_path):
    """A directory that went away, and a link to nowhere, are looks like any other."""
    assert signature_of(tmp_path / "gone") == ()
    (tmp_path / "link").symlink_to("nowhere")
    assert signature_of(tmp_path) == (("link", -1, 0, 0, 0),)
