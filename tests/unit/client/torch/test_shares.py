"""Tests of imagemint.client.torch.shares."""

from hypothesis import given
from hypothesis import strategies as st

from imagemint.client.torch.shares import Block, Share

sizes = st.tuples(st.integers(0, 200), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))


def list_shares(world_size, num_workers):
    """Returns the shares of every worker of every rank."""
    return [
        Share(rank, world_size, worker, num_workers)
        for rank in range(world_size)
        for worker in range(num_workers)
    ]


def list_positions(blocks):
    """Returns the positions of blocks in order."""
    return [at for block in blocks for at in range(block.start, block.start + block.size)]


@given(sizes)
def test_every_position_belongs_to_one_share(sizes):
    """Workers and ranks together read each image exactly once."""
    count, block_size, world_size, num_workers = sizes
    found = [
        at
        for share in list_shares(world_size, num_workers)
        for at in list_positions(share.list_blocks(count, block_size))
    ]
    assert sorted(found) == list(range(count))


@given(sizes)
def test_drop_last_gives_ranks_equal_shares(sizes):
    """All ranks have the same number of full blocks, so none waits for another."""
    count, block_size, world_size, _ = sizes
    blocks = [
        list(Share(rank, world_size).list_blocks(count, block_size, drop_last=True))
        for rank in range(world_size)
    ]
    assert len({len(block) for block in blocks}) == 1
    assert all(block.size == block_size for each in blocks for block in each)


@given(sizes, st.integers(0, 250))
def test_skip_omits_the_first_images(sizes, skip):
    """A share that resumes continues where it stopped."""
    count, block_size, world_size, num_workers = sizes
    for share in list_shares(world_size, num_workers):
        everything = list_positions(share.list_blocks(count, block_size))
        assert list_positions(share.list_blocks(count, block_size, skip=skip)) == everything[skip:]


def test_alternating_workers_keep_the_order():
    """A DataLoader takes a block from each worker in turn, which keeps the order."""
    workers = [list(Share(1, 2, worker, 2).list_blocks(80, 10)) for worker in range(2)]
    turns = [block for pair in zip(*workers, strict=True) for block in pair]
    assert (
        turns
        == list(Share(1, 2).list_blocks(80, 10))
        == [Block(each, 10) for each in (10, 30, 50, 70)]
    )
