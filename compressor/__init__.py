"""Distil a large cross-modal teacher into a compact student. Importing this package does not import torch."""

__version__ = "0.1.0"
