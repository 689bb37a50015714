"""Tests of imagemint.server.http.translation."""

from imagemint.server.http.translation import _describe_timing
from imagemint.v1 import image_pb2


def test_header_has_the_time_of_each_phase():
    """Server-Timing has milliseconds; the message has seconds and nanoseconds."""
    timing = image_pb2.Timing()
    timing.queue.FromMicroseconds(1_500)
    timing.inference.FromMilliseconds(2_000)
    assert _describe_timing(timing) == "queue;dur=1.500, inference;dur=2000.000"
