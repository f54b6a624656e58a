/* QUANTIZE between integers of different width: reference_ops::Requantize. */
#ifndef KERNELS_QUANTIZE_H
#define KERNELS_QUANTIZE_H

#include <stdint.h>

#include "requantize.h"

#define QUANTIZE(NAME, IN, OUT, LOW, HIGH)                                                                        \
  KERNEL void NAME(const IN *in, OUT *out, int count, int32_t in_zero_point, int32_t zero_point,                 \
                   int32_t multiplier, int shift) {                                                              \
    for (int i = 0; i < count; i++) {                                                                            \
      const int32_t scaled = multiply_by_quantized_multiplier(in[i] - in_zero_point, multiplier, shift);         \
      out[i] = (OUT)clamp(scaled + zero_point, LOW, HIGH);                                                       \
    }                                                                                                            \
  }

QUANTIZE(quantize_int8_int16, int8_t, int16_t, INT16_MIN, INT16_MAX)
QUANTIZE(quantize_int8_int32, int8_t, int32_t, INT32_MIN, INT32_MAX)
QUANTIZE(quantize_int16_int8, int16_t, int8_t, INT8_MIN, INT8_MAX)
QUANTIZE(quantize_int16_int16, int16_t, int16_t, INT16_MIN, INT16_MAX)
QUANTIZE(quantize_int16_int32, int16_t, int32_t, INT32_MIN, INT32_MAX)
QUANTIZE(quantize_int32_int8, int32_t, int8_t, INT8_MIN, INT8_MAX)
QUANTIZE(quantize_int32_int16, int32_t, int16_t, INT16_MIN, INT16_MAX)

#endif
