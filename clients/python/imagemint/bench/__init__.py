"""The load test `imagemint bench`: closed and open loop, HDR histograms, and client limits.

command.py             settings, and the points to measure one after the other
client_processes.py    the processes that make the load
generator.py           the load of one process
load.py, mix.py        the load, and the requests in it
schedule.py, clock.py  the times of the calls
target.py              the protocol of a server under test
imagemint_target.py    an imagemint server as a target, over calls.py
counts.py, latencies.py, point.py    the measurements
client_cost.py         the cost of the load for the client, and whether the client is the limit
server_metrics.py      the server's own /metrics for the same time
verification.py        checks that equal requests give equal answers
knee.py                the load that the server can take
report.py, plot.py     table, JSON and picture
"""
