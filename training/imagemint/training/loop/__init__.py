"""The training loop, and everything that a run writes.

training_loop.py  the loop, one for all recipes
start.py          builds the initial state
state.py          everything that a step changes
batches.py        draws the inputs of each step
recorder.py       checks each step and writes what is due
resume.py         restores the settings of a run
checkpoints.py    the state on disk
health.py         checks that a generator is finite and its samples vary
divergence.py     compares the losses with their usual size
stopping.py       turns signals into a request to stop
monitor.py        progress bar, log, TensorBoard and grids
stats.py          statistics of a step
samples.py        images of fixed serials, and how much they vary
ema.py            the moving average of the generator
schedules.py      how often to log and save, and values that change over a run
provenance.py     what a run records about itself
dry_run.py, pace.py   what a run would do, and how long it would take
machine.py            whether other programs use the cores that a run needs
"""
