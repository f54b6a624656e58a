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

#if defined(KERNELS_MVE)
/* Four neighbours at a time, where what is kept is the innermost axis (the channels of a mean over an image) and the
 * sum is shifted to the right. */
static inline void sum_neighbours_int8(const int8_t *in, int8_t *out, const struct reduce *p) {
  for (int i = 0; i < p->count; i += 4, in += 4, out += 4) {
    const mve_pred16_t lanes = vctp32q((uint32_t)(p->count - i));
    int32x4_t sum = vdupq_n_s32(-p->zeros);
    for (int j = 0; j < p->outer; j++) {
      const int8_t *row = in + j * p->outer_step;
      for (int k = 0; k < p->inner; k++, row += p->inner_step) sum = vaddq_s32(sum, vldrbq_z_s32(row, lanes));
    }
    sum = vqrdmulhq_n_s32(sum, p->multiplier);
    sum = vaddq_n_s32(vrshlq_n_s32(vaddq_s32(sum, vshrq_n_s32(sum, 31)), p->shift), p->zero_point);
    vstrbq_p_s32(out, vminq_s32(vmaxq_s32(sum, vdupq_n_s32(INT8_MIN)), vdupq_n_s32(INT8_MAX)), lanes);
  }
}
#endif

KERNEL void sum_int8(const int8_t *in, int8_t *out, const struct reduce *p) {
#if defined(KERNELS_MVE)
  if (p->in_step == 1 && p->out_step == 1 && p->shift < 0) {
    sum_neighbours_int8(in, out, p);
    return;
  }
#endif
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
