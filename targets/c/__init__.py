"""C99 for microcontrollers, from a full-integer `.tflite`."""

from targets.c.runtime import C, target

__all__ = ["C", "target"]
