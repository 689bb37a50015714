"""Bundles on ONNX Runtime.

backend.py           runs batches of a bundle, on CPU or CUDA
session.py           sessions and bound buffers; the only module that imports onnxruntime
batch_invariance.py  probes whether the rows of a batch affect each other
buckets.py           padded batch sizes with fixed buffers, for a GPU
cuda.py              the CUDA runtime: page-locked memory
capture_lock.py      keeps other work off the device while a CUDA graph is captured
"""
