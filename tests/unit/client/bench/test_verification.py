"""Tests of the sample of responses that are verified."""

from itertools import pairwise

from imagemint.bench.verification import Sample, Verified, compare_again


def test_sample_is_even_and_limited():
    """A run of any length gives between 64 and 128 evenly spaced responses."""
    sample = Sample()
    for turn in range(10_000):
        sample.offer(turn, str(turn))
    turns = [turn for turn, _ in sample.kept]
    assert 64 <= len(turns) < 128
    assert len({after - before for before, after in pairwise(turns)}) == 1
    assert turns[-1] > 9_800


async def test_each_response_is_compared():
    """Its fingerprint is compared with that of a repeated request."""
    sample = Sample()
    for turn, content in enumerate(["a", "b", "c"]):
        sample.offer(turn, content)

    async def again(turn):
        return "aXc"[turn]

    assert await compare_again(sample, again, str.encode) == Verified(3, 1)
