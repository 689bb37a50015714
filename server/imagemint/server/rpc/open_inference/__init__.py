"""The service of the Open Inference Protocol."""
