"""Tuning: measures the tilings of kernels, keeps records of them, and finds the best in records."""

from syncnas_tvm.tuning.records import TuningRecords

__all__ = ["TuningRecords"]
