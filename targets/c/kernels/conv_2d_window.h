/* Where a convolution's window lies on its input, and the values below one position of it as a column. */
#ifndef KERNELS_CONV_2D_WINDOW_H
#define KERNELS_CONV_2D_WINDOW_H

#include "requantize.h"

struct window {
  int32_t height, width;  /* of the input */
  int32_t pixel;          /* values from one input pixel to the next */
  int32_t depth;          /* values of a pixel that are read: pixel, but for grouped convolutions */
  int32_t output_height, output_width;
  int32_t output_pixel; /* values from one output pixel to the next */
  int32_t batches;
  int16_t kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width;
  int16_t top, left;  /* padding before the first row and column */
  int16_t zero_point; /* of the input: what padding reads as */
};

static inline void copy_bytes(int8_t *to, const int8_t *from, int32_t count) {
#if defined(KERNELS_MVE)
  for (; count > 0; count -= 16, to += 16, from += 16) {
    const mve_pred16_t some = vctp8q((uint32_t)count);
    vstrbq_p_s8(to, vldrbq_z_s8(from, some), some);
  }
#elif defined(KERNELS_DSP)
  for (; count >= 4; count -= 4, to += 4, from += 4) memcpy(to, from, 4);
  for (; count > 0; count--) *to++ = *from++;
#else
  memcpy(to, from, (size_t)count);
#endif
}

/* The input values below the window whose first tap is at (y, x), tap after tap, each of `depth` values. */
KERNEL void gather_column(const struct window *window, const int8_t *input, int32_t y, int32_t x, int8_t *column) {
  const int32_t depth = window->depth, taps = window->kernel_width, dilation = window->dilation_width;
  const int32_t row = taps * depth;
  const int whole = dilation == 1 && depth == window->pixel && x >= 0 && x + taps <= window->width;
  for (int32_t i = 0; i < window->kernel_height; i++, y += window->dilation_height, column += row) {
    if (y < 0 || y >= window->height) {
      memset(column, window->zero_point, (size_t)row);
      continue;
    }
    const int8_t *line = input + y * window->width * window->pixel;
    if (whole) {
      copy_bytes(column, line + x * window->pixel, row);
      continue;
    }
    for (int32_t tap = 0; tap < taps; tap++) {
      const int32_t at = x + tap * dilation;
      if (at < 0 || at >= window->width) {
        memset(column + tap * depth, window->zero_point, (size_t)depth);
      } else {
        copy_bytes(column + tap * depth, line + at * window->pixel, depth);
      }
    }
  }
}

#endif
