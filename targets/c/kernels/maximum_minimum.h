/* The larger (sign 1) or smaller (sign -1) of two int8 values; both tensors and the output have one quantisation
 * (reference_ops::MaximumMinimumBroadcastSlow). A step of 0 repeats one value; the output may be an input. */
#ifndef KERNELS_MAXIMUM_MINIMUM_H
#define KERNELS_MAXIMUM_MINIMUM_H

#include <stdint.h>

#include "requantize.h"

KERNEL void maximum_minimum_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count,
                                 int sign) {
  for (int i = 0; i < count; i++, a += a_step, b += b_step) out[i] = (*a - *b) * sign > 0 ? *a : *b;
}

#endif
