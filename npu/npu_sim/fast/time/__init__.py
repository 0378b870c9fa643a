"""Exact times of a program without data: prepared once, simulated once per boundary vector."""
