/* Columns of int8 times a matrix of int8 weights, requantised: the core of convolutions and fully connected layers.
 *
 * The input's zero point is in the bias already: bias - zero_point * sum(weights of the row). */
#ifndef KERNELS_DOT_H
#define KERNELS_DOT_H

#include "requantize.h"

struct matrix {
  const int8_t *weights;   /* `outputs` rows of `depth`, and at least 15 readable bytes behind the last */
  const int32_t *channels; /* per row: bias, multiplier, shift */
  int32_t depth, outputs;
  int16_t zero_point, low, high; /* of the output */
};

/* Every row of the matrix times each of `columns` columns that are `step` bytes apart; outputs are `pixel` apart. */
KERNEL void dot_columns_plain(const struct matrix *matrix, const int8_t *column, int32_t step, int32_t columns,
                              int8_t *output, int32_t pixel) {
  const int32_t depth = matrix->depth;
  for (; columns > 0; columns--, column += step, output += pixel) {
    const int8_t *w = matrix->weights;
    const int32_t *channel = matrix->channels;
    for (int32_t left = matrix->outputs, c = 0; left > 0;) {
      int32_t sums[4] = {0, 0, 0, 0};
      const int32_t rows = left < 4 ? 1 : 4;
      if (rows == 4) {
        const int8_t *w1 = w + depth, *w2 = w1 + depth, *w3 = w2 + depth;
        int32_t a = 0, b = 0, d = 0, e = 0;
        for (int32_t i = 0; i < depth; i++) {
          const int32_t x = column[i];
          a += x * w[i];
          b += x * w1[i];
          d += x * w2[i];
          e += x * w3[i];
        }
        sums[0] = a;
        sums[1] = b;
        sums[2] = d;
        sums[3] = e;
      } else {
        int32_t a = 0;
        for (int32_t i = 0; i < depth; i++) a += column[i] * w[i];
        sums[0] = a;
      }
      for (int32_t i = 0; i < rows; i++, channel += 3) {
        const int32_t value = multiply_by_quantized_multiplier(sums[i] + channel[0], channel[1], channel[2]);
        output[c++] = (int8_t)clamp(value + matrix->zero_point, matrix->low, matrix->high);
      }
      w += rows * depth;
      left -= rows;
    }
  }
}

#if defined(KERNELS_DSP)
/* int8 values 0 and 2 of a word as int16, and values 1 and 3. */
static inline int32_t even(int32_t word) { return __sxtb16((uint32_t)word); }

static inline int32_t odd(int32_t word) {
  int32_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
  return halves;
}

static inline int32_t load_word(const int8_t *from) {
  int32_t word;
  memcpy(&word, from, 4);
  return word;
}

static inline void store_word(int8_t *to, int32_t word) { memcpy(to, &word, 4); }

static inline void widen_words(const int8_t *a, const int8_t *b, const int8_t *c, const int8_t *d, int32_t words,
                               int32_t *to) {
  for (const int32_t *end = to + 8 * words; to != end; to += 8, a += 4, b += 4, c += 4, d += 4) {
    const int32_t first = load_word(a), second = load_word(b), third = load_word(c), fourth = load_word(d);
    to[0] = even(first);
    to[1] = even(second);
    to[2] = even(third);
    to[3] = even(fourth);
    to[4] = odd(first);
    to[5] = odd(second);
    to[6] = odd(third);
    to[7] = odd(fourth);
  }
}

/* Four columns of `depth` bytes, `step` apart, as int16, interleaved: for every four values of all columns the words
 * even of the four columns, then odd of the four columns. Zeros fill the last. */
KERNEL void widen_quad(const int8_t *from, int32_t step, int32_t depth, int32_t *quad) {
  const int8_t *second = from + step, *third = second + step, *fourth = third + step;
  const int32_t words = depth >> 2, rest = depth & 3;
  widen_words(from, second, third, fourth, words, quad);
  if (rest) {
    int8_t ends[4][4] = {{0}, {0}, {0}, {0}};
    for (int32_t i = 0; i < 4; i++) {
      for (int32_t k = 0; k < rest; k++) ends[i][k] = from[i * step + 4 * words + k];
    }
    widen_words(ends[0], ends[1], ends[2], ends[3], 1, quad + 8 * words);
  }
}

/* Four inputs of four columns and one row of weights: 16 multiply-accumulates. */
#define DOT_4X1                                                                                              \
  "ldr %[w], [%[row]], #4\n ldrd %[x], %[y], [%[quad]], #8\n sxtb16 %[t], %[w]\n"                             \
  "smlad %[a], %[x], %[t], %[a]\n smlad %[b], %[y], %[t], %[b]\n"                                            \
  "ldrd %[x], %[y], [%[quad]], #8\n sxtb16 %[w], %[w], ror #8\n"                                             \
  "smlad %[c], %[x], %[t], %[c]\n smlad %[d], %[y], %[t], %[d]\n"                                            \
  "ldrd %[x], %[y], [%[quad]], #8\n smlad %[a], %[x], %[w], %[a]\n smlad %[b], %[y], %[w], %[b]\n"            \
  "ldrd %[x], %[y], [%[quad]], #8\n smlad %[c], %[x], %[w], %[c]\n smlad %[d], %[y], %[w], %[d]\n"
#define DOT_4X1_OPERANDS                                                                                     \
  : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [quad] "+r"(quad), [row] "+r"(row), [x] "=&r"(x),    \
    [y] "=&r"(y), [w] "=&r"(w), [t] "=&r"(t)                                                                 \
  :                                                                                                          \
  : "memory"

/* Every row of the matrix times four columns from `widen_quad`; the outputs are `pixel` apart. */
KERNEL void dot_quad(const struct matrix *matrix, const int32_t *columns, int8_t *output, int32_t pixel) {
  const int32_t depth = matrix->depth, offset = 1 + 2 * matrix->zero_point, rest = -depth & 3;
  const int32_t *end = columns + 8 * ((depth + 3) / 4), *long_end = columns + 8 * (depth / 16 * 4);
  const int32_t *channel = matrix->channels, *last = channel + 3 * matrix->outputs;
  const int8_t *row = matrix->weights;
  for (; channel != last; channel += 3, output++, row -= rest) {
    const int32_t *quad = columns;
    int32_t a = channel[0], b = a, c = a, d = a;
    int32_t x, y, w, t;
    while (quad != long_end) __asm__ volatile(DOT_4X1 DOT_4X1 DOT_4X1 DOT_4X1 DOT_4X1_OPERANDS);
    while (quad != end) __asm__ volatile(DOT_4X1 DOT_4X1_OPERANDS);
    const int32_t doubled = (int32_t)((uint32_t)channel[1] << 1), shift = ~channel[2];
    int8_t *third = output + 2 * pixel;
    output[0] = (int8_t)requantize(a, doubled, shift, offset);
    output[pixel] = (int8_t)requantize(b, doubled, shift, offset);
    third[0] = (int8_t)requantize(c, doubled, shift, offset);
    third[pixel] = (int8_t)requantize(d, doubled, shift, offset);
  }
}

/* Four inputs of two columns and two rows of weights: 16 multiply-accumulates. */
#define DOT_2X2                                                                                              \
  "ldrd %[x], %[y], [%[pair]], #8\n ldr %[v], [%[v_row]], #4\n ldr %[w], [%[w_row]], #4\n"                    \
  "sxtb16 %[t], %[v]\n smlad %[xv], %[x], %[t], %[xv]\n smlad %[yv], %[y], %[t], %[yv]\n"                     \
  "sxtb16 %[t], %[w]\n smlad %[xw], %[x], %[t], %[xw]\n smlad %[yw], %[y], %[t], %[yw]\n"                     \
  "ldrd %[x], %[y], [%[pair]], #8\n sxtb16 %[v], %[v], ror #8\n sxtb16 %[w], %[w], ror #8\n"                  \
  "smlad %[xv], %[x], %[v], %[xv]\n smlad %[yv], %[y], %[v], %[yv]\n"                                        \
  "smlad %[xw], %[x], %[w], %[xw]\n smlad %[yw], %[y], %[w], %[yw]\n"
#define DOT_2X2_OPERANDS                                                                                     \
  : [xv] "+r"(xv), [yv] "+r"(yv), [xw] "+r"(xw), [yw] "+r"(yw), [pair] "+r"(pair), [v_row] "+r"(v_row),      \
    [w_row] "+r"(w_row), [x] "=&r"(x), [y] "=&r"(y), [v] "=&r"(v), [w] "=&r"(w), [t] "=&r"(t)                \
  :                                                                                                          \
  : "memory"

/* Every row of the matrix (two at least) times two columns of int16: for every four values the words
 * even(first), even(second), odd(first), odd(second). */
KERNEL void dot_pair(const struct matrix *matrix, const int32_t *columns, int8_t *first, int8_t *second) {
  const int32_t depth = matrix->depth, offset = 1 + 2 * matrix->zero_point;
  const int32_t *end = columns + (depth + 3) / 4 * 4, *long_end = columns + depth / 16 * 16;
  const int8_t *row = matrix->weights;
  const int32_t *channel = matrix->channels;
  for (int32_t left = matrix->outputs;;) {
    const int8_t *v_row = row, *w_row = row + depth;
    const int32_t *pair = columns;
    int32_t xv = channel[0], yv = xv, xw = channel[3], yw = xw;
    int32_t x, y, v, w, t;
    while (pair != long_end) __asm__ volatile(DOT_2X2 DOT_2X2 DOT_2X2 DOT_2X2 DOT_2X2_OPERANDS);
    while (pair != end) __asm__ volatile(DOT_2X2 DOT_2X2_OPERANDS);
    const int32_t v_multiplier = (int32_t)((uint32_t)channel[1] << 1), v_shift = ~channel[2];
    const int32_t w_multiplier = (int32_t)((uint32_t)channel[4] << 1), w_shift = ~channel[5];
    first[0] = (int8_t)requantize(xv, v_multiplier, v_shift, offset);
    second[0] = (int8_t)requantize(yv, v_multiplier, v_shift, offset);
    first[1] = (int8_t)requantize(xw, w_multiplier, w_shift, offset);
    second[1] = (int8_t)requantize(yw, w_multiplier, w_shift, offset);
    left -= 2;
    if (left <= 0) break;
    const int32_t step = left == 1 ? 1 : 2; /* an odd last row is computed with the one before it, once more */
    row += step * depth;
    channel += step * 3;
    first += step;
    second += step;
  }
}

/* Four inputs of one column and four rows of weights: 16 multiply-accumulates. */
#define DOT_1X4                                                                                              \
  "ldr %[x], [%[column]], #4\n sxtb16 %[y], %[x], ror #8\n sxtb16 %[x], %[x]\n"                              \
  "ldr %[w], [%[row], %[depth]]\n sxtb16 %[t], %[w], ror #8\n sxtb16 %[w], %[w]\n"                           \
  "smlad %[b], %[y], %[t], %[b]\n smlad %[b], %[x], %[w], %[b]\n"                                            \
  "ldr %[w], [%[row], %[depth], lsl #1]\n sxtb16 %[t], %[w], ror #8\n sxtb16 %[w], %[w]\n"                   \
  "smlad %[c], %[y], %[t], %[c]\n smlad %[c], %[x], %[w], %[c]\n"                                            \
  "ldr %[w], [%[last]], #4\n sxtb16 %[t], %[w], ror #8\n sxtb16 %[w], %[w]\n"                                \
  "smlad %[d], %[y], %[t], %[d]\n smlad %[d], %[x], %[w], %[d]\n"                                            \
  "ldr %[w], [%[row]], #4\n sxtb16 %[t], %[w], ror #8\n sxtb16 %[w], %[w]\n"                                 \
  "smlad %[a], %[y], %[t], %[a]\n smlad %[a], %[x], %[w], %[a]\n"
#define DOT_1X4_OPERANDS                                                                                     \
  : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [column] "+r"(column), [row] "+r"(row),              \
    [last] "+r"(last), [x] "=&r"(x), [y] "=&r"(y), [w] "=&r"(w), [t] "=&r"(t)                                \
  : [depth] "r"(depth)                                                                                       \
  : "memory"

/* The same for two rows: 8 multiply-accumulates. */
#define DOT_1X2                                                                                              \
  "ldr %[x], [%[column]], #4\n sxtb16 %[y], %[x], ror #8\n sxtb16 %[x], %[x]\n"                              \
  "ldr %[w], [%[row], %[depth]]\n sxtb16 %[t], %[w], ror #8\n sxtb16 %[w], %[w]\n"                           \
  "smlad %[b], %[y], %[t], %[b]\n smlad %[b], %[x], %[w], %[b]\n"                                            \
  "ldr %[w], [%[row]], #4\n sxtb16 %[t], %[w], ror #8\n sxtb16 %[w], %[w]\n"                                 \
  "smlad %[a], %[y], %[t], %[a]\n smlad %[a], %[x], %[w], %[a]\n"

/* Every row of the matrix (four at least) times one column of int8. */
KERNEL void dot_single(const struct matrix *matrix, const int8_t *input, int8_t *output) {
  const int32_t depth = matrix->depth, rest = depth & 3, offset = 1 + 2 * matrix->zero_point;
  const int8_t *end = input + (depth & ~3), *long_end = input + (depth & ~7);
  const int8_t *weights = matrix->weights;
  const int32_t *channel = matrix->channels;
  int8_t ends[4] = {0, 0, 0, 0}; /* the values behind the last whole word */
  for (int32_t i = 0; i < rest; i++) ends[i] = end[i];
  for (int32_t left = matrix->outputs;;) {
    const int8_t *column = input, *row = weights, *last = weights + 3 * depth;
    int32_t a = channel[0], b = channel[3], c = 0, d = 0;
    int32_t x, y, w, t;
    if (left == 2) {
      while (column != end) __asm__ volatile(DOT_1X2 DOT_1X4_OPERANDS);
      if (rest) {
        column = ends;
        __asm__ volatile(DOT_1X2 DOT_1X4_OPERANDS);
      }
    } else {
      c = channel[6], d = channel[9];
      while (column != long_end) __asm__ volatile(DOT_1X4 DOT_1X4 DOT_1X4_OPERANDS);
      if (column != end) __asm__ volatile(DOT_1X4 DOT_1X4_OPERANDS);
      if (rest) {
        column = ends;
        __asm__ volatile(DOT_1X4 DOT_1X4_OPERANDS);
      }
    }
    output[0] = (int8_t)requantize(a, (int32_t)((uint32_t)channel[1] << 1), ~channel[2], offset);
    output[1] = (int8_t)requantize(b, (int32_t)((uint32_t)channel[4] << 1), ~channel[5], offset);
    if (left == 2) break;
    output[2] = (int8_t)requantize(c, (int32_t)((uint32_t)channel[7] << 1), ~channel[8], offset);
    output[3] = (int8_t)requantize(d, (int32_t)((uint32_t)channel[10] << 1), ~channel[11], offset);
    left -= 4;
    if (left <= 0) break;
    /* of the last rows, two are computed alone; one or three with some before them, once more */
    const int32_t step = left < 4 && left != 2 ? left : 4;
    weights += step * depth;
    channel += step * 3;
    output += step;
  }
}
#endif

#if defined(KERNELS_MVE)
/* Sixteen inputs of one column and four rows of weights: 64 multiply-accumulates; `sum` is vmladav or vmladava. */
#define DOT_16(sum)                                                                       \
  "vldrb.8 %q[x], [%[column]], #16\n"                                                     \
  "vldrb.8 %q[w], [%[p0]], #16\n " sum " %[a], %q[x], %q[w]\n"                             \
  "vldrb.8 %q[w], [%[p1]], #16\n " sum " %[b], %q[x], %q[w]\n"                             \
  "vldrb.8 %q[w], [%[p2]], #16\n " sum " %[c], %q[x], %q[w]\n"                             \
  "vldrb.8 %q[w], [%[p3]], #16\n " sum " %[d], %q[x], %q[w]\n"
#define DOT_16_OPERANDS(mode)                                                             \
  : [a] mode "Te"(a), [b] mode "Te"(b), [c] mode "Te"(c), [d] mode "Te"(d),               \
    [column] "+r"(x), [p0] "+r"(p0), [p1] "+r"(p1), [p2] "+r"(p2), [p3] "+r"(p3),         \
    [x] "=&w"(values), [w] "=&w"(weights)                                                 \
  :                                                                                       \
  : "memory"

/* `dot_columns_plain` for matrices of four rows or more. */
KERNEL void dot_columns(const struct matrix *matrix, const int8_t *first, int32_t step, int32_t columns,
                        int8_t *output, int32_t pixel) {
  const uint32x4_t channel_bytes = {0, 12, 24, 36};
  const int32_t depth = matrix->depth, zero_point = matrix->zero_point, tail = depth & 15;
  const int32x4_t low = vdupq_n_s32(matrix->low), high = vdupq_n_s32(matrix->high);
  const mve_pred16_t rest = vctp8q((uint32_t)(tail ? tail : 16));
  const int8_t *row = matrix->weights;
  const int32_t *channel = matrix->channels;
  for (int32_t left = matrix->outputs;;) {
    const int32x4_t bias = vldrwq_gather_offset_s32(channel, channel_bytes);
    const int32x4_t multipliers = vldrwq_gather_offset_s32(channel + 1, channel_bytes);
    const int32x4_t shifts = vldrwq_gather_offset_s32(channel + 2, channel_bytes);
    const int8_t *row1 = row + depth, *row2 = row1 + depth, *row3 = row2 + depth, *column = first;
    int8_t *to = output;
    if (depth <= 16) { /* the weights stay in registers; what is read behind a row meets zeros of x */
      const int8x16_t w0 = vldrbq_s8(row), w1 = vldrbq_s8(row1), w2 = vldrbq_s8(row2), w3 = vldrbq_s8(row3);
      for (int32_t i = columns; i > 0; i--, column += step, to += pixel) {
        const int8x16_t x = vldrbq_z_s8(column, rest);
        const int32x4_t sums = four(vmladavq_s8(x, w0), vmladavq_s8(x, w1), vmladavq_s8(x, w2), vmladavq_s8(x, w3));
        vstrbq_s32(to, requantize(vaddq_s32(sums, bias), multipliers, shifts, zero_point, low, high));
      }
    } else {
      for (int32_t i = columns; i > 0; i--, column += step, to += pixel) {
        const int8_t *x = column, *p0 = row, *p1 = row1, *p2 = row2, *p3 = row3, *end = column + (depth - tail);
        int8x16_t values, weights;
        int32_t a, b, c, d;
        __asm__ volatile(DOT_16("vmladav.s8") DOT_16_OPERANDS("=&"));
        while (x != end) __asm__ volatile(DOT_16("vmladava.s8") DOT_16_OPERANDS("+"));
        if (tail) {
          values = vldrbq_z_s8(x, rest);
          a = vmladavaq_s8(a, values, vldrbq_s8(p0));
          b = vmladavaq_s8(b, values, vldrbq_s8(p1));
          c = vmladavaq_s8(c, values, vldrbq_s8(p2));
          d = vmladavaq_s8(d, values, vldrbq_s8(p3));
        }
        vstrbq_s32(to, requantize(vaddq_s32(four(a, b, c, d), bias), multipliers, shifts, zero_point, low, high));
      }
    }
    left -= 4;
    if (left <= 0) break;
    const int32_t rows = left < 4 ? left : 4; /* the last rows are computed with some before them, once more */
    row += rows * depth;
    channel += rows * 3;
    output += rows;
  }
}
#endif

#endif
