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
  for (; count >= 16; count -= 16, to += 16, from += 16) vst1q_s8(to, vld1q_s8(from));
  if (count > 0) {
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

static inline void fill_bytes(int8_t *to, int32_t value, int32_t count) {
#if defined(KERNELS_MVE)
  for (; count > 0; count -= 16, to += 16) vstrbq_p_s8(to, vdupq_n_s8((int8_t)value), vctp8q((uint32_t)count));
#elif defined(KERNELS_DSP)
  const uint32_t four = ((uint32_t)value & 0xFF) * 0x01010101u;
  for (; count >= 4; count -= 4, to += 4) memcpy(to, &four, 4);
  for (; count > 0; count--) *to++ = (int8_t)value;
#else
  memset(to, value, (size_t)count);
#endif
}

/* The input values below the window whose first tap is at (y, x), tap after tap, each of `depth` values. */
static inline void gather_column(const struct window *window, const int8_t *input, int32_t y, int32_t x,
                                 int8_t *column) {
  const int32_t depth = window->depth, taps = window->kernel_width, dilation = window->dilation_width;
  const int32_t row = taps * depth, line = window->width * window->pixel, height = window->height;
  const int whole = dilation == 1 && depth == window->pixel && x >= 0 && x + taps <= window->width;
  const int32_t offset = x * window->pixel, next = window->dilation_height;
  for (int32_t i = window->kernel_height; i > 0; i--, y += next, column += row) {
    if (y < 0 || y >= height) {
      fill_bytes(column, window->zero_point, row);
    } else if (whole) {
      copy_bytes(column, input + y * line + offset, row);
    } else {
      for (int32_t tap = 0, at = x; tap < taps; tap++, at += dilation) {
        if (at < 0 || at >= window->width) {
          fill_bytes(column + tap * depth, window->zero_point, depth);
        } else {
          copy_bytes(column + tap * depth, input + y * line + at * window->pixel, depth);
        }
      }
    }
  }
}

/* The columns of `count` positions from number `first` of an image on, `length` bytes apart. */
KERNEL void gather_columns(const struct window *window, const int8_t *input, int32_t first, int32_t count,
                           int8_t *column, int32_t length) {
  const int32_t right = (window->output_width - 1) * window->stride_width - window->left, step = window->stride_width;
  int32_t y = first / window->output_width;
  int32_t x = (first - y * window->output_width) * step - window->left;
  y = y * window->stride_height - window->top;
  for (; count > 0; count--, column += length) {
    gather_column(window, input, y, x, column);
    x += step;
    if (x > right) {
      x = -window->left;
      y += window->stride_height;
    }
  }
}

#endif
