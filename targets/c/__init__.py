"""C99 for microcontrollers, from a full-integer .tflite."""
