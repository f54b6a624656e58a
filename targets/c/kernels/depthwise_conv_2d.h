/* DEPTHWISE_CONV_2D: every channel with a filter of its own. Weights are (taps, channels), the bias is TFLite's. */
#ifndef KERNELS_DEPTHWISE_CONV_2D_H
#define KERNELS_DEPTHWISE_CONV_2D_H

#include "conv_2d_window.h"

struct filters {
  const int8_t *weights;   /* kernel_height * kernel_width rows of `outputs` */
  const int32_t *channels; /* per output channel: bias, multiplier, shift */
  int32_t outputs;         /* depth * copies */
  int16_t copies;          /* output channels per input channel */
  int16_t zero_point, low, high;
};

/* The taps of one axis that lie inside the input: first and behind the last, for a window that begins at `start`. */
static inline void clip_taps(int32_t start, int32_t dilation, int32_t taps, int32_t size, int32_t *first, int32_t *end) {
  *first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  *end = start + (taps - 1) * dilation >= size ? (size - start + dilation - 1) / dilation : taps;
}

/* One output channel at one position: the sum over the taps (rows i[0]..i[1], columns j[0]..j[1]) that lie inside the
 * input, for a window whose first tap is at (y, x). */
static inline int32_t depthwise_sum(const struct window *window, const int8_t *input, int32_t y, int32_t x,
                                    const int8_t *weights, int32_t outputs, const int32_t *i, const int32_t *j) {
  const int32_t step = window->dilation_width * window->pixel;
  int32_t sum = 0;
  for (int32_t row = i[0]; row < i[1]; row++) {
    const int32_t line = (y + row * window->dilation_height) * window->width + x + j[0] * window->dilation_width;
    const int8_t *value = input + line * window->pixel;
    const int8_t *w = weights + (row * window->kernel_width + j[0]) * outputs;
    for (int32_t tap = j[0]; tap < j[1]; tap++, value += step, w += outputs) sum += (*value - window->zero_point) * *w;
  }
  return sum;
}

KERNEL void depthwise_conv_2d_plain(const struct window *window, const struct filters *filters, const int8_t *input,
                                    int8_t *output) {
  const int32_t outputs = filters->outputs;
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * window->pixel) {
    for (int32_t y = 0; y < window->output_height; y++) {
      const int32_t top = y * window->stride_height - window->top;
      int32_t i[2], j[2];
      clip_taps(top, window->dilation_height, window->kernel_height, window->height, &i[0], &i[1]);
      for (int32_t x = 0; x < window->output_width; x++) {
        const int32_t left = x * window->stride_width - window->left;
        clip_taps(left, window->dilation_width, window->kernel_width, window->width, &j[0], &j[1]);
        const int8_t *source = input;
        const int32_t *channel = filters->channels;
        for (int32_t c = 0, copy = 0; c < outputs; c++, channel += 3) {
          const int32_t sum = channel[0] + depthwise_sum(window, source, top, left, filters->weights + c, outputs, i, j);
          const int32_t value = multiply_by_quantized_multiplier(sum, channel[1], channel[2]);
          *output++ = (int8_t)clamp(value + filters->zero_point, filters->low, filters->high);
          if (++copy == filters->copies) {
            copy = 0;
            source++;
          }
        }
      }
    }
  }
}

#endif
