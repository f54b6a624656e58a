/* From an int32 accumulator to int8: TFLite's reference arithmetic (double rounding), exactly.
 *
 * Fixed point as in gemmlowp: value * multiplier * 2^(shift - 31), multiplier in [2^30, 2^31) or 0. */
#ifndef KERNELS_REQUANTIZE_H
#define KERNELS_REQUANTIZE_H

#include <stdint.h>
#include <string.h>

/* Without optimisation (-O0) compilers do not find registers for the assembly: then it is the plain C, too. */
#if defined(MODEL_PLAIN_C) || !defined(__OPTIMIZE__)
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define KERNELS_MVE 1
#include <arm_mve.h>
#elif defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#define KERNELS_DSP 1
#include <arm_acle.h>
#endif

/* Kernels are shared by the layers: one copy in flash, neither inlined into a caller nor cloned for its constants. */
#if defined(__clang__)
#define KERNEL static __attribute__((noinline, unused))
#elif defined(__GNUC__)
#define KERNEL static __attribute__((noinline, noclone, unused))
#else
#define KERNEL static
#endif

/* The high 32 bits of 2*a*b, rounded to nearest with ties up. Saturates in the one case that overflows: both INT32_MIN.
 * gemmlowp divides ab + (ab < 0 ? 1 - 2^30 : 2^30) by 2^31 towards zero, which is the floor of (ab + 2^30) / 2^31. */
static inline int32_t rounding_doubling_high_mul(int32_t a, int32_t b) {
  return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

static inline int32_t saturating_rounding_doubling_high_mul(int32_t a, int32_t b) {
  return a == INT32_MIN && b == INT32_MIN ? INT32_MAX : rounding_doubling_high_mul(a, b);
}

/* x / 2^exponent, rounded to nearest with ties away from zero; exponent 0..31. */
static inline int32_t rounding_divide_by_pot(int32_t x, int exponent) {
  const int32_t mask = (int32_t)((1u << exponent) - 1);
  const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return (x >> exponent) + ((x & mask) > threshold ? 1 : 0);
}

/* x * multiplier * 2^(shift - 31), multiplier >= 0, shift -31..30. A left shift that overflows wraps around, as the
 * reference does. */
static inline int32_t multiply_by_quantized_multiplier(int32_t x, int32_t multiplier, int shift) {
  const int left = shift > 0 ? shift : 0;
  const int right = shift > 0 ? 0 : -shift;
  const int32_t shifted = (int32_t)((uint32_t)x << left);
  return rounding_divide_by_pot(rounding_doubling_high_mul(shifted, multiplier), right);
}

#if defined(KERNELS_DSP)
/* The same for a shift of -1..-31 and sums whose magnitude is below 2^30 (the generator proves both per layer), then
 * the zero point is added and the result saturated to int8. In short forms, each equal to the definition above:
 *   (2 a m + 2^31) >> 32 = a + ((a (2m - 2^32) + 2^31) >> 32)      one SMMLAR, as 2m - 2^32 fits 32 bits
 *   x / 2^e with ties away from zero = (x + (x < 0 ? -1 : 0) + 2^(e-1)) >> e, here in two steps, e - 1 and 1, so that
 *   rounding and zero point are one addition: ((x' >> (e - 1)) + 1 + 2 zero_point) >> 1
 * `doubled` is 2m - 2^32, `shift` e - 1, `offset` 1 + 2 zero_point. */
static inline int32_t requantize(int32_t sum, int32_t doubled, int32_t shift, int32_t offset) {
  int32_t high;
  __asm__("smmlar %0, %1, %2, %1" : "=r"(high) : "r"(sum), "r"(doubled));
  high += high >> 31;
  return __ssat(((high >> shift) + offset) >> 1, 8);
}
#endif

#if defined(KERNELS_MVE)
/* The same for four sums and shifts of -1..-31, then the zero point is added and the result clamped. VQRDMULH is the
 * definition above; VRSHL rounds ties up, so 1 is taken off what is negative before. */
static inline int32x4_t requantize(int32x4_t sums, int32x4_t multipliers, int32x4_t shifts, int32_t zero_point,
                                   int32x4_t low, int32x4_t high) {
  int32x4_t values = vqrdmulhq_s32(sums, multipliers);
  values = vrshlq_s32(vaddq_s32(values, vshrq_n_s32(values, 31)), shifts);
  return vminq_s32(vmaxq_s32(vaddq_n_s32(values, zero_point), low), high);
}

/* By the halves of the register: emulators and compilers do not agree on which lane is which in VMOV Qd[2], Qd[0]. */
static inline int32x4_t four(int32_t a, int32_t b, int32_t c, int32_t d) {
  int32x4_t values;
  __asm__("vmov %e0, %1, %2\n vmov %f0, %3, %4" : "=&w"(values) : "r"(a), "r"(b), "r"(c), "r"(d));
  return values;
}
#endif

static inline int32_t clamp(int32_t value, int32_t low, int32_t high) {
  return value < low ? low : value > high ? high : value;
}

#if defined(KERNELS_DSP)
/* Clamp values that are int8 already, four at a time: for layers whose activation cuts more than int8 does. */
KERNEL void clamp_values(int8_t *values, int32_t count, int32_t low, int32_t high) {
  const uint32_t bytes = 0x01010101u;
  const uint32_t lows = ((uint32_t)low & 0xFF) * bytes, highs = ((uint32_t)high & 0xFF) * bytes;
  for (; count >= 4; count -= 4, values += 4) {
    uint32_t four, difference;
    memcpy(&four, values, 4);
    /* ssub8 sets a flag per byte, sel picks by them */
    __asm__("ssub8 %1, %0, %2\n sel %0, %0, %2\n ssub8 %1, %3, %0\n sel %0, %0, %3\n"
            : "+r"(four), "=&r"(difference)
            : "r"(lows), "r"(highs));
    memcpy(values, &four, 4);
  }
  for (; count > 0; count--, values++) *values = (int8_t)clamp(*values, low, high);
}
#endif

#endif
