"""What /metrics says of the time between two readings."""

from imagemint.bench.server_metrics import difference, parse_metrics

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


def reading(one, two, cpu):
    """The parsed state of one moment."""
    return parse_metrics(TEXT.format(one=one, two=two, cpu=cpu), "tiny")


def test_buckets_are_taken_apart():
    """Counts for each size and not up to it, versions together, other models left out."""
    found = reading(5.0, 7.0, 2.0)
    assert found.batches == {"1.0": 6, "2.0": 2, "+Inf": 3}
    assert found.cpu_s == 3.5


def test_what_happened_between_is_the_difference():
    """Of batches and of CPU time; a model that appeared in between counts from zero."""
    found = difference(reading(5.0, 7.0, 2.0), reading(6.0, 17.0, 2.25))
    assert found.batches == {"1.0": 1, "2.0": 9, "+Inf": 0}
    assert found.cpu_s == 0.25
    assert difference(parse_metrics("", "tiny"), reading(1.0, 1.0, 0.0)).batches["1.0"] == 2
