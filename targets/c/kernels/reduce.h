/* Reductions over up to two axes that cannot be walked as one, for a row of outputs.
 *
 * MEAN, SUM: the sum in int32, then requantised; 1/n is in the multiplier (reference_ops::QuantizedMeanOrSum).
 * REDUCE_MAX, REDUCE_MIN: input and output have one quantisation (reduce_common.cc). */
#ifndef KERNELS_REDUCE_H
#define KERNELS_REDUCE_H

#include <stdint.h>

#include "requantize.h"

struct reduce {
  int outer, outer_step, inner, inner_step; /* the axes that go: how many, and how far apart in elements */
  int count, in_step, out_step;             /* the outputs of one call */
  int32_t zeros;                            /* what the zero points of the inputs add to the sum */
  int32_t multiplier;
  int shift;
  int32_t zero_point;
};

KERNEL void sum_int8(const int8_t *in, int8_t *out, const struct reduce *p) {
  for (int i = 0; i < p->count; i++, in += p->in_step, out += p->out_step) {
    int32_t sum = 0;
    for (int j = 0; j < p->outer; j++) {
      const int8_t *row = in + j * p->outer_step;
      for (int k = 0; k < p->inner; k++, row += p->inner_step) sum += *row;
    }
    sum = multiply_by_quantized_multiplier(sum - p->zeros, p->multiplier, p->shift);
    *out = (int8_t)clamp(sum + p->zero_point, INT8_MIN, INT8_MAX);
  }
}

/* sign: 1 for the largest value, -1 for the smallest. */
KERNEL void extreme_int8(const int8_t *in, int8_t *out, const struct reduce *p, int sign) {
  for (int i = 0; i < p->count; i++, in += p->in_step, out += p->out_step) {
    int8_t extreme = *in;
    for (int j = 0; j < p->outer; j++) {
      const int8_t *row = in + j * p->outer_step;
      for (int k = 0; k < p->inner; k++, row += p->inner_step) {
        if ((*row - extreme) * sign > 0) extreme = *row;
      }
    }
    *out = extreme;
  }
}

#endif
