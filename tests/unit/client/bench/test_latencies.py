"""Tests of histograms of latencies, which have three digits and can be merged."""

import pickle

import numpy as np
import pytest

from imagemint.bench.latencies import Latencies

MILLISECOND = 1_000_000


def make_latencies(milliseconds):
    """Returns a histogram of these milliseconds."""
    latencies = Latencies()
    for millisecond in milliseconds:
        latencies.record(round(millisecond * MILLISECOND))
    return latencies


def test_quantiles_have_three_digits():
    """The precision holds from microseconds to minutes."""
    values = np.geomspace(0.01, 100_000, 2000)
    latencies = make_latencies(values)
    for q in (0.5, 0.9, 0.99, 1.0):
        true = np.quantile(values, q, method="inverted_cdf")
        assert latencies.compute_quantile_ms(q) == pytest.approx(true, rel=2e-3)
    assert latencies.compute_mean_ms() == pytest.approx(values.mean(), rel=2e-3)


def test_merged_histograms_equal_the_whole():
    """Histograms can be merged, unlike percentiles."""
    one, other, both = (
        make_latencies([1, 2, 3]),
        make_latencies([100] * 7),
        make_latencies([1, 2, 3] + [100] * 7),
    )
    one.add(other)
    assert one.encode() == both.encode()
    assert (len(one), one.compute_quantile_ms(0.99)) == (10, both.compute_quantile_ms(0.99))


def test_histogram_can_be_serialized():
    """Text and pickle keep all values, also of empty histograms."""
    for latencies in (make_latencies([1.5, 7, 7]), Latencies()):
        assert Latencies.decode(latencies.encode()).encode() == latencies.encode()
        found = pickle.loads(pickle.dumps(latencies))  # noqa: S301 - our own
        assert len(found) == len(latencies)
        assert found.compute_quantile_ms(0.5) == latencies.compute_quantile_ms(0.5)


def test_empty_histogram_has_no_values():
    """The results are None and not zero."""
    assert Latencies().compute_quantile_ms(0.5) is None
    assert Latencies().compute_mean_ms() is None


def test_extreme_values_are_counted():
    """A value above an hour counts as an hour, and a negative one as zero."""
    latencies = make_latencies([1e9, -1.0])
    assert len(latencies) == 2
    assert latencies.compute_quantile_ms(1.0) == pytest.approx(3_600_000, rel=1e-3)
