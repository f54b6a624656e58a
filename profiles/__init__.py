"""Measure: what a device offers, what a graph costs on it. Importing this package does not import torch."""
