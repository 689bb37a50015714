"""Histograms of latencies: exact to three digits, and they add up."""

import pickle

import numpy as np
import pytest

from imagemint.bench.latencies import Latencies

MILLISECOND = 1_000_000


def of(milliseconds):
    """A histogram of these."""
    latencies = Latencies()
    for each in milliseconds:
        latencies.record(round(each * MILLISECOND))
    return latencies


def test_quantiles_are_exact_to_three_digits():
    """From microseconds to minutes."""
    values = np.geomspace(0.01, 100_000, 2000)
    latencies = of(values)
    for q in (0.5, 0.9, 0.99, 1.0):
        true = np.quantile(values, q, method="inverted_cdf")
        assert latencies.quantile_ms(q) == pytest.approx(true, rel=2e-3)
    assert latencies.mean_ms() == pytest.approx(values.mean(), rel=2e-3)


def test_merged_histograms_are_that_of_all():
    """Unlike percentiles, which cannot be merged."""
    one, other, both = of([1, 2, 3]), of([100] * 7), of([1, 2, 3] + [100] * 7)
    one.add(other)
    assert one.encoded() == both.encoded()
    assert (len(one), one.quantile_ms(0.99)) == (10, both.quantile_ms(0.99))


def test_histogram_travels():
    """As text and as a pickle, empty ones too."""
    for latencies in (of([1.5, 7, 7]), Latencies()):
        assert Latencies.decoded(latencies.encoded()).encoded() == latencies.encoded()
        found = pickle.loads(pickle.dumps(latencies))  # noqa: S301 - our own
        assert len(found) == len(latencies)
        assert found.quantile_ms(0.5) == latencies.quantile_ms(0.5)


def test_empty_histogram_says_nothing():
    """None, not zero."""
    assert Latencies().quantile_ms(0.5) is None
    assert Latencies().mean_ms() is None


def test_extremes_count():
    """Nothing is dropped: longer than an hour is an hour, before the start is zero."""
    latencies = of([1e9, -1.0])
    assert len(latencies) == 2
    assert latencies.quantile_ms(1.0) == pytest.approx(3_600_000, rel=1e-3)
