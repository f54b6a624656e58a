/* FULLY_CONNECTED, and CONV_2D with a 1x1 kernel and stride 1: the same matrix for every row of values. */
#ifndef KERNELS_FULLY_CONNECTED_H
#define KERNELS_FULLY_CONNECTED_H

#include "dot.h"

KERNEL void fully_connected_plain(const struct matrix *matrix, const int8_t *input, int32_t rows, int8_t *output) {
  dot_columns_plain(matrix, input, matrix->depth, rows, output, matrix->outputs);
}

#endif
