/* The product of two computed matrices: reference_ops::BatchMatMul, and FULLY_CONNECTED without constant weights.
 * Steps are in elements, so that either matrix may be read transposed. */
#ifndef KERNELS_BATCH_MATMUL_H
#define KERNELS_BATCH_MATMUL_H

#include <stdint.h>

#include "requantize.h"

struct batch_matmul {
  int rows, columns, depth;
  int a_row, a_step, b_column, b_step; /* to the next row of a, the next column of b, and along the sum */
  int32_t a_zero_point, b_zero_point, multiplier;
  int shift;
  int32_t zero_point, low, high; /* of the output and its fused activation */
};

KERNEL void batch_matmul_int8(const int8_t *a, const int8_t *b, int8_t *out, const struct batch_matmul *p) {
  for (int row = 0; row < p->rows; row++) {
    for (int column = 0; column < p->columns; column++) {
      const int8_t *x = a + row * p->a_row, *y = b + column * p->b_column;
      int32_t sum = 0;
      for (int k = 0; k < p->depth; k++, x += p->a_step, y += p->b_step) {
        sum += (*x - p->a_zero_point) * (*y - p->b_zero_point);
      }
      sum = multiply_by_quantized_multiplier(sum, p->multiplier, p->shift);
      *out++ = (int8_t)clamp(sum + p->zero_point, p->low, p->high);
    }
  }
}

#endif
