/* Columns of int8 times a matrix of int8 weights, requantised: the core of convolutions and fully connected layers.
 *
 * The input's zero point is in the bias already: bias - zero_point * sum(weights of the row). */
#ifndef KERNELS_DOT_H
#define KERNELS_DOT_H

#include "requantize.h"

struct matrix {
  const int8_t *weights;   /* `outputs` rows of `depth`, and at least 3 readable bytes behind the last */
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

#endif
