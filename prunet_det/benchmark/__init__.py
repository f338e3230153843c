"""Accuracy against latency: suites of trainings, their records, and what they say.

Everything may be imported here; nothing imports this.
"""
