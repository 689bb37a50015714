"""The load test `imagemint bench`: closed and open loop, HDR histograms, and client limits.

command.py             settings, and the points to measure one after the other
client_processes.py    the processes that make the load
generator.py           the load of one process
load.py, mix.py        how hard to call, and for what
schedule.py, clock.py  when to call
target.py              the protocol of a server under test
imagemint_target.py    an imagemint server as a target, over calls.py
counts.py, latencies.py, point.py    what was measured
client_cost.py         what the load costs the client, and whether the client is the limit
server_metrics.py      what the server's /metrics say of the same time
verification.py        whether the same request gives the same answer twice
knee.py                how much load the server takes
report.py, plot.py     table, JSON and picture
"""
