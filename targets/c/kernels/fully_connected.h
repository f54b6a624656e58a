/* FULLY_CONNECTED, and CONV_2D with a 1x1 kernel and stride 1: the same matrix for every row of values. */
#ifndef KERNELS_FULLY_CONNECTED_H
#define KERNELS_FULLY_CONNECTED_H

#include "dot.h"

KERNEL void fully_connected_plain(const struct matrix *matrix, const int8_t *input, int32_t rows, int8_t *output) {
  dot_columns_plain(matrix, input, matrix->depth, rows, output, matrix->outputs);
}

/* `scratch`: 0, or for four rows or more 8 bytes per value of a row, rounded up to whole words of values. */
#if defined(KERNELS_DSP)
KERNEL void fully_connected(const struct matrix *matrix, const int8_t *input, int32_t rows, int8_t *output,
                            int8_t *scratch) {
  const int32_t depth = matrix->depth, outputs = matrix->outputs;
  int32_t *quad = (int32_t *)(void *)scratch;
  if (quad && rows >= 4) {
    for (int32_t row = 0; row < rows; row += 4) {
      if (row > rows - 4) row = rows - 4; /* the last rows are computed with some before them, once more */
      widen_quad(input + row * depth, depth, depth, quad);
      dot_quad(matrix, quad, output + row * outputs, outputs);
    }
  } else {
    for (int32_t row = 0; row < rows; row++) dot_single(matrix, input + row * depth, output + row * outputs);
  }
  if (matrix->low > -128 || matrix->high < 127) clamp_values(output, rows * outputs, matrix->low, matrix->high);
}
#else
static inline void fully_connected(const struct matrix *matrix, const int8_t *input, int32_t rows, int8_t *output,
                                   int8_t *scratch) {
  (void)scratch;
#if defined(KERNELS_MVE)
  dot_columns(matrix, input, matrix->depth, rows, output, matrix->outputs);
#else
  fully_connected_plain(matrix, input, rows, output);
#endif
}
#endif

#endif
