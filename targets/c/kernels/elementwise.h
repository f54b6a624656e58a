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

/* The high 32 bits of a * b, rounded to nearest with ties up: of 2x and m it is the doubling multiplication of x and m
 * wherever 2x fits 32 bits. */
static inline int32_t rounding_high_mul(int32_t a, int32_t b) {
#if defined(KERNELS_DSP)
  int32_t high;
  __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
  return high;
#else
  return (int32_t)(((int64_t)a * b + 0x80000000LL) >> 32);
#endif
}

/* x / 2^shift, rounded to nearest with ties away from zero; shift 1..29, and |x| below 2^29. */
static inline int32_t rounding_shift_right(int32_t x, int shift) {
  return (x + (x >> 31) + (1 << (shift - 1))) >> shift;
}

/* ADD and SUB in short forms, exactly: of the two multipliers one is 1/2, so that its operand is multiplied without
 * rounding; the other one is smaller, so that it shifts to the right by 1 or more, as the sum does. */
struct addition {
  int32_t exact_factor, exact_offset; /* value -> (value - zero_point) * 2^19, negative where it is subtracted */
  int32_t other_factor, other_offset; /* value -> (value - zero_point) * 2^21 */
  int32_t other_multiplier, other_sign;
  int other_shift; /* all shifts are to the right */
  int32_t multiplier;
  int shift;
  int32_t zero_point, low, high; /* of the output and its fused activation */
};

KERNEL void add_int8(const int8_t *exact, int exact_step, const int8_t *other, int other_step, int8_t *out, int count,
                     const struct addition *parameters) {
  const struct addition p = *parameters; /* a copy: `out` might point into it, for all that the compiler knows */
#if defined(KERNELS_MVE)
  const int32x4_t exact_offset = vdupq_n_s32(p.exact_offset), other_offset = vdupq_n_s32(p.other_offset);
  const int32x4_t multiplier = vdupq_n_s32(p.multiplier), other_multiplier = vdupq_n_s32(p.other_multiplier);
  const int32x4_t low = vdupq_n_s32(p.low), high = vdupq_n_s32(p.high);
  for (; count > 0; count -= 4, exact += 4 * exact_step, other += 4 * other_step, out += 4) {
    const mve_pred16_t lanes = vctp32q((uint32_t)count);
    const int32x4_t a = exact_step ? vldrbq_z_s32(exact, lanes) : vdupq_n_s32(*exact);
    const int32x4_t b = other_step ? vldrbq_z_s32(other, lanes) : vdupq_n_s32(*other);
    int32x4_t y = vrmulhq_s32(vmlaq_n_s32(other_offset, b, p.other_factor), other_multiplier);
    y = vrshlq_n_s32(vaddq_s32(y, vshrq_n_s32(y, 31)), -p.other_shift);
    const int32x4_t sum = vmlaq_n_s32(vmlaq_n_s32(exact_offset, a, p.exact_factor), y, p.other_sign);
    int32x4_t value = vrmulhq_s32(vshlq_n_s32(sum, 1), multiplier);
    value = vrshlq_n_s32(vaddq_s32(value, vshrq_n_s32(value, 31)), -p.shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, p.zero_point), low), high);
    vstrbq_p_s32(out, value, lanes);
  }
#else
  for (int i = 0; i < count; i++, exact += exact_step, other += other_step) {
    const int32_t x = *exact * p.exact_factor + p.exact_offset;
    const int32_t scaled = rounding_high_mul(*other * p.other_factor + p.other_offset, p.other_multiplier);
    const int32_t sum = x + rounding_shift_right(scaled, p.other_shift) * p.other_sign;
    const int32_t value = rounding_shift_right(rounding_high_mul(sum * 2, p.multiplier), p.shift);
    out[i] = (int8_t)clamp(value + p.zero_point, p.low, p.high);
  }
#endif
}

struct elementwise {
  int32_t a_zero_point, b_zero_point, zero_point; /* of the inputs and the output */
  int32_t a_multiplier, b_multiplier, multiplier;
  int a_shift, b_shift, shift;
  int32_t low, high; /* of the fused activation */
};

/* MUL where the product is shifted to the right by 1..29. */
KERNEL void mul_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count,
                     const struct elementwise *parameters) {
  const struct elementwise p = *parameters;
#if defined(KERNELS_MVE)
  const int32x4_t multiplier = vdupq_n_s32(p.multiplier), low = vdupq_n_s32(p.low), high = vdupq_n_s32(p.high);
  for (; count > 0; count -= 4, a += 4 * a_step, b += 4 * b_step, out += 4) {
    const mve_pred16_t lanes = vctp32q((uint32_t)count);
    const int32x4_t x = vsubq_n_s32(a_step ? vldrbq_z_s32(a, lanes) : vdupq_n_s32(*a), p.a_zero_point);
    const int32x4_t y = vsubq_n_s32(b_step ? vldrbq_z_s32(b, lanes) : vdupq_n_s32(*b), p.b_zero_point);
    int32x4_t value = vrmulhq_s32(vshlq_n_s32(vmulq_s32(x, y), 1), multiplier);
    value = vrshlq_n_s32(vaddq_s32(value, vshrq_n_s32(value, 31)), p.shift);
    value = vminq_s32(vmaxq_s32(vaddq_n_s32(value, p.zero_point), low), high);
    vstrbq_p_s32(out, value, lanes);
  }
#else
  for (int i = 0; i < count; i++, a += a_step, b += b_step) {
    const int32_t product = (*a - p.a_zero_point) * (*b - p.b_zero_point);
    const int32_t value = rounding_shift_right(rounding_high_mul(product * 2, p.multiplier), -p.shift);
    out[i] = (int8_t)clamp(value + p.zero_point, p.low, p.high);
  }
#endif
}

static inline int8_t elementwise_result(int32_t value, const struct elementwise *p) {
  const int32_t scaled = multiply_by_quantized_multiplier(value, p->multiplier, p->shift);
  return (int8_t)clamp(scaled + p->zero_point, p->low, p->high);
}

/* MUL for any scale of the output. */
KERNEL void mul_any_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count,
                         const struct elementwise *p) {
  for (int i = 0; i < count; i++, a += a_step, b += b_step) {
    out[i] = elementwise_result((*a - p->a_zero_point) * (*b - p->b_zero_point), p);
  }
}

/* (value - zero_point) * 2^7, rescaled. */
static inline int32_t difference_operand(int8_t value, int32_t zero_point, int32_t multiplier, int shift) {
  return multiply_by_quantized_multiplier((value - zero_point) * (1 << 7), multiplier, shift);
}

KERNEL void squared_difference_int8(const int8_t *a, int a_step, const int8_t *b, int b_step, int8_t *out, int count,
                                    const struct elementwise *p) {
  for (int i = 0; i < count; i++, a += a_step, b += b_step) {
    const int32_t x = difference_operand(*a, p->a_zero_point, p->a_multiplier, p->a_shift);
    const int32_t y = difference_operand(*b, p->b_zero_point, p->b_multiplier, p->b_shift);
    out[i] = elementwise_result((x - y) * (x - y), p);
  }
}

#endif
