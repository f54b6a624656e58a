/* The gallery's int8 index (compressor/tasks/sketch/index.py) in C99: the same rows in the same order.
 *
 * A row's score is the exact integer sum of code * (query - zero point), as float32, times 1 / |codes|: the cosine but
 * for the query's length. SPDX-License-Identifier: Apache-2.0 */
#ifndef SKETCH_INDEX_H
#define SKETCH_INDEX_H

#include <stdint.h>
#include <string.h>

#if !defined(__OPTIMIZE__)
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define INDEX_MVE 1
#include <arm_mve.h>
#elif defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#define INDEX_DSP 1
#include <arm_acle.h>
#endif

struct gallery {
  const int8_t *codes;        /* rows * depth */
  const float *inverse_norms; /* per row, 1 / |codes| */
  int32_t rows, depth;
};

/* What was found: row numbers and scores, best first, equal scores in the gallery's order. */
struct found {
  int32_t *rows;
  float *scores;
  int32_t k, count; /* room; how many there are */
};

#define INDEX_LOWEST (-3.0e38f) /* below every score */

/* Put a row, whose score is above that of the last or for which there is room, in its place. Gives the score that a
 * further row must exceed. */
static float index_insert(struct found *found, int32_t row, float score) {
  int32_t place = found->count < found->k ? found->count++ : found->k - 1;
  for (; place > 0 && score > found->scores[place - 1]; place--) {
    found->rows[place] = found->rows[place - 1];
    found->scores[place] = found->scores[place - 1];
  }
  found->rows[place] = row;
  found->scores[place] = score;
  return found->count < found->k ? INDEX_LOWEST : found->scores[found->k - 1];
}

#if defined(INDEX_MVE)
/* Sixteen at a time; the zero point leaves with the sum of the codes. */
static inline int32_t index_dot(const int8_t *codes, const int8_t *query, int32_t zero_point, int32_t depth) {
  int32_t sum = 0, of_codes = 0;
  for (; depth >= 16; depth -= 16, codes += 16, query += 16) {
    const int8x16_t code = vldrbq_s8(codes);
    sum = vmladavaq_s8(sum, code, vldrbq_s8(query));
    of_codes = vaddvaq_s8(of_codes, code);
  }
  if (depth > 0) { /* lanes beyond the end are loaded as zeros */
    const mve_pred16_t some = vctp8q((uint32_t)depth);
    const int8x16_t code = vldrbq_z_s8(codes, some);
    sum = vmladavaq_s8(sum, code, vldrbq_z_s8(query, some));
    of_codes = vaddvaq_s8(of_codes, code);
  }
  return sum - zero_point * of_codes;
}
#else
static inline int32_t index_dot(const int8_t *codes, const int16_t *query, int32_t depth) {
  int32_t sum = 0;
  for (int32_t i = 0; i < depth; i++) sum += codes[i] * query[i];
  return sum;
}
#endif

#if defined(INDEX_DSP)
/* int8 values 0 and 2 of a word as int16, and values 1 and 3. */
static inline int16x2_t index_even(uint32_t word) { return __sxtb16(word); }

static inline int16x2_t index_odd(uint32_t word) {
  int32_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
  return halves;
}

static inline uint32_t index_word(const void *from) {
  uint32_t word;
  memcpy(&word, from, 4);
  return word;
}

/* Four rows at once, four codes each; of every four of the query the order is 0, 2, 1, 3. `depth`: a multiple of four. */
static inline void index_dot_four(const int8_t *codes, const int16_t *query, int32_t depth, int32_t *sums) {
  const int8_t *second = codes + depth, *third = second + depth, *fourth = third + depth;
  int32_t a = 0, b = 0, c = 0, d = 0;
  for (const int8_t *const stop = second; codes < stop; query += 4) {
    const int16x2_t even = (int16x2_t)index_word(query), odd = (int16x2_t)index_word(query + 2);
    uint32_t word = index_word(codes);
    codes += 4;
    a = __smlad(index_odd(word), odd, __smlad(index_even(word), even, a));
    word = index_word(second);
    second += 4;
    b = __smlad(index_odd(word), odd, __smlad(index_even(word), even, b));
    word = index_word(third);
    third += 4;
    c = __smlad(index_odd(word), odd, __smlad(index_even(word), even, c));
    word = index_word(fourth);
    fourth += 4;
    d = __smlad(index_odd(word), odd, __smlad(index_even(word), even, d));
  }
  sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif

/* Look through the whole gallery for an encoder's int8 output. `wide`: room for depth int16.
 * found->count is 0 and found->k at least 1 before. Sums stay below 2^31 for depth < 66,000. */
static void index_search(const struct gallery *gallery, const int8_t *query, int32_t zero_point, int16_t *wide,
                         struct found *found) {
  const int32_t depth = gallery->depth;
  const int8_t *codes = gallery->codes;
  float bar = INDEX_LOWEST;
  int32_t row = 0;
#if defined(INDEX_MVE)
  (void)wide;
  for (; row < gallery->rows; row++, codes += depth) {
    const float score = (float)index_dot(codes, query, zero_point, depth) * gallery->inverse_norms[row];
    if (score > bar) bar = index_insert(found, row, score);
  }
#else
#if defined(INDEX_DSP)
  if (depth % 4 == 0) {
    for (int32_t i = 0; i < depth; i += 4) {
      for (int32_t j = 0; j < 4; j++) wide[i + j] = (int16_t)(query[i + (j * 2) % 4 + j / 2] - zero_point);
    }
    for (; row + 4 <= gallery->rows; row += 4, codes += 4 * depth) {
      int32_t sums[4];
      index_dot_four(codes, wide, depth, sums);
      for (int32_t i = 0; i < 4; i++) {
        const float score = (float)sums[i] * gallery->inverse_norms[row + i];
        if (score > bar) bar = index_insert(found, row + i, score);
      }
    }
  }
#endif
  for (int32_t i = 0; i < depth; i++) wide[i] = (int16_t)(query[i] - zero_point);
  for (; row < gallery->rows; row++, codes += depth) {
    const float score = (float)index_dot(codes, wide, depth) * gallery->inverse_norms[row];
    if (score > bar) bar = index_insert(found, row, score);
  }
#endif
}

#endif
