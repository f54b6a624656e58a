/* AVERAGE_POOL_2D and MAX_POOL_2D over (rows, columns, channels), one image: reference_integer_ops::AveragePool and
 * MaxPool. Only what lies inside the image counts; the average is rounded to nearest, halves away from zero. */
#ifndef KERNELS_POOL_2D_H
#define KERNELS_POOL_2D_H

#include <stdint.h>

#include "requantize.h"

struct pool_2d {
  int height, width, channels, out_height, out_width;
  int filter_height, filter_width, stride_height, stride_width, pad_top, pad_left;
  int32_t low, high; /* of the fused activation */
};

struct pool_window {
  int y0, y1, x0, x1;
};

static inline struct pool_window pool_window(const struct pool_2d *p, int out_y, int out_x) {
  const int y = out_y * p->stride_height - p->pad_top, x = out_x * p->stride_width - p->pad_left;
  const int y1 = y + p->filter_height, x1 = x + p->filter_width;
  const struct pool_window window = {y < 0 ? 0 : y, y1 > p->height ? p->height : y1, x < 0 ? 0 : x,
                                     x1 > p->width ? p->width : x1};
  return window;
}

KERNEL void average_pool_2d_int8(const int8_t *in, int8_t *out, const struct pool_2d *p) {
  for (int out_y = 0; out_y < p->out_height; out_y++) {
    for (int out_x = 0; out_x < p->out_width; out_x++) {
      const struct pool_window w = pool_window(p, out_y, out_x);
      const int32_t count = (w.y1 - w.y0) * (w.x1 - w.x0);
      for (int c = 0; c < p->channels; c++) {
        int32_t sum = 0;
        for (int y = w.y0; y < w.y1; y++) {
          const int8_t *pixel = in + (y * p->width + w.x0) * p->channels + c;
          for (int x = w.x0; x < w.x1; x++, pixel += p->channels) sum += *pixel;
        }
        const int32_t mean = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
        *out++ = (int8_t)clamp(mean, p->low, p->high);
      }
    }
  }
}

KERNEL void max_pool_2d_int8(const int8_t *in, int8_t *out, const struct pool_2d *p) {
  for (int out_y = 0; out_y < p->out_height; out_y++) {
    for (int out_x = 0; out_x < p->out_width; out_x++) {
      const struct pool_window w = pool_window(p, out_y, out_x);
      for (int c = 0; c < p->channels; c++) {
        int32_t largest = INT8_MIN;
        for (int y = w.y0; y < w.y1; y++) {
          const int8_t *pixel = in + (y * p->width + w.x0) * p->channels + c;
          for (int x = w.x0; x < w.x1; x++, pixel += p->channels) largest = *pixel > largest ? *pixel : largest;
        }
        *out++ = (int8_t)clamp(largest, p->low, p->high);
      }
    }
  }
}

#endif
