/* Any function of one int8: a table of 256, in the order of the byte as unsigned. The output may be the input. */
#ifndef KERNELS_LOOKUP_H
#define KERNELS_LOOKUP_H

#include <stdint.h>

#include "requantize.h"

KERNEL void lookup_int8(const int8_t *table, const int8_t *in, int8_t *out, int count) {
  for (int i = 0; i < count; i++) out[i] = table[(uint8_t)in[i]];
}

#endif
