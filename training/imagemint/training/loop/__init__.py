"""The training loop, and everything that a run writes.

training_loop.py  the loop, one for all recipes
start.py          the state in which a run begins
resume.py         the settings of a run that is resumed
checkpoints.py    the state on disk
health.py         whether a generator is sound: finite, varied
divergence.py     whether the losses are of their usual size
stopping.py       a request to stop, by signal
monitor.py        progress bar, log, scalars and pictures
stats.py          the figures of a step
samples.py        pictures of fixed serials
ema.py            the moving average of the generator
schedules.py      how often to log and save, and how options change over a run
provenance.py     what a run records about itself
dry_run.py, pace.py   what a run would do, and how long it would take
durable.py        files that survive a power cut
"""
