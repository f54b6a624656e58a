/* SOFTMAX over the innermost axis: reference_ops::Softmax with int8 in and out (scale 1/256, zero point -128).
 *
 * exponentials[d] is exp(-d * scale * beta) in 0 integer bits, for differences d to the largest value of the row;
 * what is farther away counts as zero. The output may be the input. */
#ifndef KERNELS_SOFTMAX_H
#define KERNELS_SOFTMAX_H

#include <stdint.h>

#include "requantize.h"

static inline int softmax_leading_zeros(uint32_t x) {
  int zeros = 0;
  for (; !(x & 0x80000000u); x <<= 1) zeros++;
  return zeros;
}

/* 1 / (1 + a) for a in [0, 1), both without integer bits: three steps of Newton-Raphson division in 2 integer bits
 * (gemmlowp's one_over_one_plus_x_for_x_in_0_1). */
static inline int32_t softmax_reciprocal(int32_t a) {
  const int32_t half_denominator = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
  int32_t x = 1515870810 + saturating_rounding_doubling_high_mul(half_denominator, -1010580540);
  for (int i = 0; i < 3; i++) {
    const int32_t error = (1 << 29) - saturating_rounding_doubling_high_mul(half_denominator, x);
    x += saturating_rounding_doubling_high_mul(x, error) * 4;
  }
  return x > INT32_MAX / 2 ? INT32_MAX : x * 2;
}

KERNEL void softmax_int8(const int8_t *in, int8_t *out, int rows, int depth, const int32_t *exponentials, int count) {
  for (int row = 0; row < rows; row++, in += depth, out += depth) {
    int32_t largest = INT8_MIN, sum = 0; /* the sum has 12 integer bits */
    for (int i = 0; i < depth; i++) largest = in[i] > largest ? in[i] : largest;
    for (int i = 0; i < depth; i++) {
      if (largest - in[i] < count) sum += rounding_divide_by_pot(exponentials[largest - in[i]], 12);
    }
    const int zeros = softmax_leading_zeros((uint32_t)sum);
    const int32_t scale = softmax_reciprocal((int32_t)(((uint32_t)sum << zeros) - 0x80000000u));
    const int exponent = 12 - zeros + 31 - 8;
    for (int i = 0; i < depth; i++) {
      int32_t share = 0;
      if (largest - in[i] < count) {
        const int32_t product = saturating_rounding_doubling_high_mul(scale, exponentials[largest - in[i]]);
        share = rounding_divide_by_pot(product, exponent);
      }
      out[i] = (int8_t)clamp(share - 128, INT8_MIN, INT8_MAX);
    }
  }
}

#endif
