"""Tests of the difference between two readings of /metrics."""

from imagemint.bench.server_metrics import parse_metrics, subtract

TEXT = """
# TYPE imagemint_batch_images histogram
imagemint_batch_images_bucket{{le="1.0",model="tiny",version="1"}} {one}
imagemint_batch_images_bucket{{le="2.0",model="tiny",version="1"}} {two}
imagemint_batch_images_bucket{{le="+Inf",model="tiny",version="1"}} {two}
imagemint_batch_images_bucket{{le="1.0",model="tiny",version="2"}} 1.0
imagemint_batch_images_bucket{{le="2.0",model="tiny",version="2"}} 1.0
imagemint_batch_images_bucket{{le="+Inf",model="tiny",version="2"}} 4.0
imagemint_batch_images_bucket{{le="1.0",model="other",version="1"}} 100.0
imagemint_batch_images_count{{model="tiny",version="1"}} {two}
process_cpu_seconds_total{{worker="0"}} {cpu}
process_cpu_seconds_total{{worker="1"}} 1.5
"""


def parse_reading(one, two, cpu):
    """Returns the parsed state of one moment."""
    return parse_metrics(TEXT.format(one=one, two=two, cpu=cpu), "tiny")


def test_buckets_are_separated():
    """Counts are per size instead of cumulative, over all versions of this model."""
    found = parse_reading(5.0, 7.0, 2.0)
    assert found.batches == {"1.0": 6, "2.0": 2, "+Inf": 3}
    assert found.cpu_s == 3.5


def test_difference_of_two_readings():
    """Batches and CPU time are subtracted. A model that appears counts from zero."""
    found = subtract(parse_reading(5.0, 7.0, 2.0), parse_reading(6.0, 17.0, 2.25))
    assert found.batches == {"1.0": 1, "2.0": 9, "+Inf": 0}
    assert found.cpu_s == 0.25
    assert subtract(parse_metrics("", "tiny"), parse_reading(1.0, 1.0, 0.0)).batches["1.0"] == 2
