"""Tests that a damaged data set is found and repaired."""

import pytest

from imagemint.client.cli import main
from imagemint.dataset.folder import LocalFolder

FIRST, SECOND = "train-000000000-000000019.npz", "train-000000020-000000039.npz"
SCORED = {"model": "judged", "scores": True}
SETS = [
    ("webdataset", {}),
    ("parquet", {}),
    ("imagefolder", {}),
    ("imagefolder", SCORED),  # with a file that is joined at the end
    ("npz", {}),
]


@pytest.fixture
def verify(models, capsys):
    """A function that verifies a data set and returns the exit status and the messages."""

    def run(folder, *flags):
        words = ["dataset", "--local", f"--repository={models}", f"--verify={folder}", *flags]
        status = main(words)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def damage(path):
    """Changes the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def list_shards(folder):
    """Returns the files with images."""
    return sorted(path for path in folder.rglob("*") if path.suffix in {".tar", ".parquet"}) or (
        sorted(path for path in folder.rglob("*") if path.suffix in {".npz", ".png"})
    )


@pytest.mark.parametrize(("format_name", "settings"), SETS)
def test_damaged_shards_are_made_again(make, refusal, contents, tmp_path, format_name, settings):  # noqa: PLR0917 - fixtures
    """Missing and changed shards get their bytes back; intact ones are not written again."""
    settings = settings | {"format": format_name}
    assert make(tmp_path, **settings) == 0
    whole, files = contents(tmp_path), list_shards(tmp_path)
    files[0].unlink()
    damage(files[1])
    kept = {path: path.stat().st_ino for path in files[len(files) * 4 // 5 :]}
    said = refusal(tmp_path, **settings)
    assert "is missing since the data set was completed; 1 more are missing or changed" in said
    assert "--repair" in said
    assert make(tmp_path, repair=True, **settings) == 0
    assert contents(tmp_path) == whole
    assert all(path.stat().st_ino == inode for path, inode in kept.items())


@pytest.mark.parametrize("workers", [1, 2])
def test_joined_file_is_made_again(make, contents, tmp_path, workers):
    """A changed file of scores needs a part of each shard, whose images are kept."""
    settings = SCORED | {"format": "imagefolder", "workers": workers}
    assert make(tmp_path, **settings) == 0
    whole, path = contents(tmp_path), tmp_path / "train/metadata.jsonl"
    kept = {shard: shard.stat().st_ino for shard in list_shards(tmp_path)}
    damage(path)
    assert make(tmp_path, repair=True, **settings) == 0
    assert contents(tmp_path) == whole
    assert {shard: shard.stat().st_ino for shard in list_shards(tmp_path)} == kept


def test_other_bytes_replace_no_file(make, refusal, contents, tmp_path):
    """If the shard that is made again differs from SHA256SUMS, the damaged file is kept."""
    assert make(tmp_path / "set") == 0
    assert make(tmp_path / "other", seed=8) == 0
    sums = [tmp_path / name / "SHA256SUMS" for name in ("set", "other")]
    listed = [next(each for each in sum_.read_text().split("\n") if FIRST in each) for sum_ in sums]
    sums[0].write_text(sums[0].read_text().replace(*listed))
    before = contents(tmp_path / "set")
    assert "shard 0 has other bytes" in refusal(tmp_path / "set", repair=True)
    after = contents(tmp_path / "set")
    assert {name: after[name] for name in before} == before


def test_interrupted_repair_continues(make, contents, tmp_path, monkeypatch):
    """A repair that ends between two shards leaves a data set that can be repaired."""
    assert make(tmp_path) == 0
    whole = contents(tmp_path)
    for name in (FIRST, SECOND):
        damage(tmp_path / name)
    original, published = LocalFolder.publish, []

    def fail(self, staged, name):
        if published:
            raise KeyboardInterrupt
        published.append(name)
        original(self, staged, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "publish", fail)
        assert make(tmp_path, repair=True) == 130
    assert (tmp_path / SECOND).read_bytes() != whole[SECOND]
    assert make(tmp_path, repair=True) == 0
    assert contents(tmp_path) == whole


def test_lost_checksums_are_made_again(make, refusal, contents, tmp_path):
    """Without SHA256SUMS, --repair makes all shards again, and keeps equal files and others."""
    assert make(tmp_path) == 0
    whole = contents(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / FIRST).unlink()
    kept = (tmp_path / SECOND).stat().st_ino
    assert SECOND in refusal(tmp_path)
    assert make(tmp_path, repair=True) == 0
    assert contents(tmp_path) == whole
    assert (tmp_path / SECOND).stat().st_ino == kept
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / FIRST).write_bytes(b"mine")
    assert f"{FIRST} is not the file that this data set has" in refusal(tmp_path, repair=True)
    assert (tmp_path / FIRST).read_bytes() == b"mine"


@pytest.mark.parametrize("settings", [{}, SCORED | {"format": "imagefolder"}])
def test_card_and_plan_are_repaired(make, contents, tmp_path, settings):
    """The other files of the command are written again, too, with the same sizes in the card."""
    assert make(tmp_path, **settings) == 0
    whole = contents(tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "imagemint.json").write_bytes(whole["imagemint.json"] + b"\n")
    assert make(tmp_path, repair=True, **settings) == 0
    assert contents(tmp_path) == whole


def test_card_of_another_release_is_listed(make, tmp_path, monkeypatch):
    """A repair by a release that words the card otherwise leaves a complete data set."""
    assert make(tmp_path) == 0
    (tmp_path / "README.md").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("imagemint.dataset.making.format_card", lambda *_: b"other words")
        assert make(tmp_path, repair=True) == 0
    assert (tmp_path / "README.md").read_bytes() == b"other words"
    assert make(tmp_path) == 0


def test_repair_of_an_intact_set_changes_nothing(make, contents, tmp_path):
    """--repair checks every file and opens no source."""
    assert make(tmp_path) == 0
    whole = contents(tmp_path)
    assert make(tmp_path, repair=True) == 0
    assert contents(tmp_path) == whole


def test_stray_file_is_found(make, verify, tmp_path):
    """A picture that readers of class folders would take for an image fails the verification."""
    assert make(tmp_path, format="imagefolder") == 0
    (tmp_path / ".gitattributes").write_text("mine")  # readers ignore it
    assert verify(tmp_path, "--sample=1")[0] == 0
    stray = tmp_path / "train/7/stray.png"
    stray.write_bytes((tmp_path / "train/7/000000007.png").read_bytes())
    status, said = verify(tmp_path, "--sample=1")
    assert status == 1
    assert "files that are not of the data set" in said
    assert "(train/7/stray.png)" in said


@pytest.mark.parametrize(
    ("format_name", "lost", "said"),
    [
        ("imagefolder", "train/3/", "it lists 45 images, and the plan has 50"),
        ("npz", SECOND, "it lists 2 shards, and the plan has 3"),
        ("npz", "README.md", "it does not begin with imagemint.json and README.md"),
    ],
)
def test_lost_lines_are_found(make, verify, contents, tmp_path, format_name, lost, said):  # noqa: PLR0917 - fixtures
    """Files that are gone together with their lines fail the verification, and are repaired."""
    assert make(tmp_path, format=format_name) == 0
    whole, sums = contents(tmp_path), tmp_path / "SHA256SUMS"
    for name in whole:
        if name.startswith(lost):
            (tmp_path / name).unlink()
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if lost not in line))
    status, found = verify(tmp_path)
    assert status == 1
    assert said in found
    sums.unlink()  # as the message says
    assert make(tmp_path, format=format_name, repair=True) == 0
    assert contents(tmp_path) == whole


def test_exchanged_lines_are_found(make, verify, tmp_path):
    """The files are listed in the order of the plan."""
    assert make(tmp_path, format="imagefolder") == 0
    sums = tmp_path / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join([*lines[:-2], lines[-1], lines[-2]]))
    assert "000000049.png is not the next file of the plan" in verify(tmp_path)[1]
