"""Telemetry: metrics, statistics, logs, traces, and figures of the GPU."""
