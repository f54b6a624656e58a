/* Element by element on two int8 tensors, either of which may repeat one value (step 0). The output may be an input.
 *
 * ADD, SUB: both inputs are brought to twice the larger scale with 20 more bits, added, and requantised
 *   (reference_integer_ops::AddFunc, reference_ops::SubElementwise).
 * MUL: the product is requantised (reference_integer_ops::MulElementwise).
 * SQUARED_DIFFERENCE: like SUB with 7 more bits, then squared (squared_difference.cc). */
#ifndef KERNELS_ELEMENTWISE_H
#define KERNELS_ELEMENTWISE_H

#include <stdint.h>

#include "requantize.h"

struct elementwise {
  int32_t a_zero_point, b_zero_point, zero_point; /* of the inputs and the output */
  int32_t a_multiplier, b_multiplier, multiplier;
  int a_shift, b_shift, shift;
  int32_t low, high; /* of the fused activation */
};

/* (value - zero_point) * 2^bits, rescaled. */
static inline int32_t elementwise_operand(int8_t value, int32_t zero_point, int bits, int32_t multiplier, int shift) {
  return multiply_by_quantized_multiplier((value - zero_point) * (1 << bits), multiplier, shift);
}

static inline int8_t elementwise_result(int32_t value, const struct elementwise *p) {
  const int32_t scaled = multiply_by_quantized_multiplier(value, p->multiplier, p->shift);
  return (int8_t)clamp(scaled + p->zero_point, p->low, p->high);
}

/* sign: 1 to add, -1 to subtract. */
KERNEL void add_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count, int sign,
                     const struct elementwise *p) {
  for (int i = 0; i < count; i++, a += a_step, b += b_step) {
    const int32_t x = elementwise_operand(*a, p->a_zero_point, 20, p->a_multiplier, p->a_shift);
    const int32_t y = elementwise_operand(*b, p->b_zero_point, 20, p->b_multiplier, p->b_shift);
    out[i] = elementwise_result(x + sign * y, p);
  }
}

KERNEL void mul_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count,
                     const struct elementwise *p) {
  for (int i = 0; i < count; i++, a += a_step, b += b_step) {
    out[i] = elementwise_result((*a - p->a_zero_point) * (*b - p->b_zero_point), p);
  }
}

KERNEL void squared_difference_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count,
                                    const struct elementwise *p) {
  for (int i = 0; i < count; i++, a += a_step, b += b_step) {
    const int32_t x = elementwise_operand(*a, p->a_zero_point, 7, p->a_multiplier, p->a_shift);
    const int32_t y = elementwise_operand(*b, p->b_zero_point, 7, p->b_multiplier, p->b_shift);
    out[i] = elementwise_result((x - y) * (x - y), p);
  }
}

#endif
