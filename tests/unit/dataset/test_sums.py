"""Tests that the checksums of many images need little memory."""

import tracemalloc
from dataclasses import replace

import pytest

from imagemint.dataset.folder import Journal, LocalFolder, WrittenFile
from imagemint.dataset.making import finish, list_damaged, read_plan
from imagemint.dataset.sums import read_sums

COUNT, SHARD, MOST_BYTES = 20_000, 100, 400_000
DIGEST = "ab" * 32


@pytest.fixture
def many(make, tmp_path):
    """The folder and the plan of class folders whose many images are in the journal only."""
    assert make(tmp_path / "few", format="imagefolder") == 0
    plan = replace(read_plan(LocalFolder(tmp_path / "few")), count=COUNT, shard_size=SHARD)
    folder = LocalFolder(tmp_path / "many")
    with folder.lock():
        for shard in plan.list_shards():
            names = [
                f"train/{index % 10}/{plan.spell_index(index)}.png"
                for index in range(shard.first_index, shard.last_index + 1)
            ]
            Journal(folder).write(shard, [WrittenFile(name, 7, DIGEST) for name in names])
        yield folder, plan


def test_memory_does_not_grow_with_the_images(many):
    """SHA256SUMS is written and read line by line; all lines together take several megabytes."""
    folder, plan = many
    tracemalloc.start()
    try:
        assert finish(folder, plan) == 7 * COUNT
        sums = read_sums(folder, plan)
        assert sum(1 for _ in sums) == len(sums) == COUNT + 2
        assert sum(shard.count for shard in list_damaged(folder, sums, pytest.fail)) == COUNT
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(folder.read("SHA256SUMS")) > 4 * MOST_BYTES
    assert most < MOST_BYTES
