"""Tests of imagemint.client.interrupts."""

import asyncio
import warnings

from imagemint.client.interrupts import ignore_unstarted_calls


def test_unstarted_calls_are_not_reported():
    """Only the warning about a coroutine that was never awaited is silenced."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.sleep(0)  # is dropped before it starts
        assert [str(each.message) for each in caught] == [
            "coroutine 'sleep' was never awaited",
        ]
        ignore_unstarted_calls()
        asyncio.sleep(0)
        warnings.warn("another", RuntimeWarning, stacklevel=1)
    assert [str(each.message) for each in caught][1:] == ["another"]
