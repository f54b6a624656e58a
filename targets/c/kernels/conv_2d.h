/* CONV_2D: each position's window as a column, times the matrix of filters. */
#ifndef KERNELS_CONV_2D_H
#define KERNELS_CONV_2D_H

#include "conv_2d_window.h"
#include "dot.h"

/* `scratch`: kernel_height * kernel_width * depth bytes. */
KERNEL void conv_2d_plain(const struct window *window, const struct matrix *matrix, const int8_t *input,
                          int8_t *output, int8_t *scratch) {
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * window->pixel) {
    for (int32_t y = 0; y < window->output_height; y++) {
      for (int32_t x = 0; x < window->output_width; x++, output += window->output_pixel) {
        gather_column(window, input, y * window->stride_height - window->top, x * window->stride_width - window->left,
                      scratch);
        dot_columns_plain(matrix, scratch, 0, 1, output, 0);
      }
    }
  }
}

#endif
