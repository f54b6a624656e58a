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

/* The fast form, for one copy and four channels or more. `scratch`: 8 bytes per tap. */
#if defined(KERNELS_DSP)
/* One tap of four channels: x - zero_point of channels 0 and 2, then 1 and 3, as int16, times the weights' two words. */
#define DEPTHWISE_TAP(address)                                                                                \
  "ldr %[x], " address "\n ldrd %[even], %[odd], [%[w]], #8\n"                                                \
  "sxtab16 %[t], %[zero], %[x]\n sxtab16 %[x], %[zero], %[x], ror #8\n"                                      \
  "smlabb %[a], %[t], %[even], %[a]\n smlatt %[c], %[t], %[even], %[c]\n"                                    \
  "smlabb %[b], %[x], %[odd], %[b]\n smlatt %[d], %[x], %[odd], %[d]\n"
#define DEPTHWISE_3 DEPTHWISE_TAP("[%[p]]") DEPTHWISE_TAP("[%[p], %[step]]") DEPTHWISE_TAP("[%[p], %[step], lsl #1]")
#define DEPTHWISE_OPERANDS                                                                                    \
  : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [p] "+r"(p), [w] "+r"(w), [x] "=&r"(x), [t] "=&r"(t), \
    [even] "=&r"(even), [odd] "=&r"(odd)                                                                      \
  : [step] "r"(step), [line] "r"(line), [zero] "r"(zero)                                                      \
  : "memory"

/* What four channels need, in the order and form in which the loop over positions reads it. */
struct depthwise_four {
  int32_t bias[4], doubled[4], shift[4];
  int32_t zero, offset;
  const int32_t *weights;
};

static inline void depthwise_prepare(const struct window *window, const struct filters *filters, int32_t channel,
                                     int32_t *scratch, struct depthwise_four *four) {
  const int8_t *from = filters->weights + channel;
  const int32_t *rescaling = filters->channels + 3 * channel, taps = window->kernel_height * window->kernel_width;
  for (int32_t i = 0; i < taps; i++, from += filters->outputs) {
    int32_t word;
    memcpy(&word, from, 4);
    scratch[2 * i] = __sxtb16((uint32_t)word);
    scratch[2 * i + 1] = __sxtb16((uint32_t)word >> 8);
  }
  for (int32_t i = 0; i < 4; i++, rescaling += 3) {
    four->bias[i] = rescaling[0];
    four->doubled[i] = (int32_t)((uint32_t)rescaling[1] << 1);
    four->shift[i] = ~rescaling[2];
  }
  four->zero = (int32_t)(((uint32_t)-window->zero_point & 0xFFFF) * 0x10001u);
  four->offset = 1 + 2 * filters->zero_point;
  four->weights = scratch;
}

/* Four channels at one position; `p` is the first tap (i[0], j[0]) that lies inside the input. */
static inline void depthwise_position(const struct window *window, const struct depthwise_four *four, const int8_t *p,
                                      const int32_t *i, const int32_t *j, int32_t step, int32_t line, int8_t *output) {
  const int32_t zero = four->zero, taps = j[1] - j[0], all = window->kernel_width;
  const int32_t *w = four->weights + 2 * (i[0] * all + j[0]);
  int32_t a = four->bias[0], b = four->bias[1], c = four->bias[2], d = four->bias[3];
  int32_t x, t, even, odd;
  for (int32_t row = i[0]; row < i[1]; row++) {
    if (taps == 3) {
      __asm__ volatile(DEPTHWISE_3 "add %[p], %[line]\n" DEPTHWISE_OPERANDS);
    } else {
      const int8_t *next = p + line;
      for (int32_t tap = 0; tap < taps; tap++) {
        __asm__ volatile(DEPTHWISE_TAP("[%[p]]") "add %[p], %[step]\n" DEPTHWISE_OPERANDS);
      }
      p = next;
    }
    w += 2 * (all - taps);
  }
  output[0] = (int8_t)requantize(a, four->doubled[0], four->shift[0], four->offset);
  output[1] = (int8_t)requantize(b, four->doubled[1], four->shift[1], four->offset);
  output[2] = (int8_t)requantize(c, four->doubled[2], four->shift[2], four->offset);
  output[3] = (int8_t)requantize(d, four->doubled[3], four->shift[3], four->offset);
}

/* `count` positions of a row whose 3x3 windows lie inside the input, `stride` apart. */
KERNEL int8_t *depthwise_3x3(const struct depthwise_four *four, const int8_t *from, int32_t count, int32_t stride,
                             int32_t step, int32_t line, int8_t *output, int32_t pixel) {
  const int32_t zero = four->zero, offset = four->offset;
  for (; count > 0; count--, from += stride, output += pixel) {
    const int8_t *p = from;
    const int32_t *w = four->weights;
    int32_t a = four->bias[0], b = four->bias[1], c = four->bias[2], d = four->bias[3];
    int32_t x, t, even, odd;
    __asm__ volatile(DEPTHWISE_3 "add %[p], %[line]\n" DEPTHWISE_3 "add %[p], %[line]\n" DEPTHWISE_3 DEPTHWISE_OPERANDS);
    output[0] = (int8_t)requantize(a, four->doubled[0], four->shift[0], offset);
    output[1] = (int8_t)requantize(b, four->doubled[1], four->shift[1], offset);
    output[2] = (int8_t)requantize(c, four->doubled[2], four->shift[2], offset);
    output[3] = (int8_t)requantize(d, four->doubled[3], four->shift[3], offset);
  }
  return output;
}

/* Positions of a row: those before `first` and from `end` on have taps outside the input. */
KERNEL void depthwise_row(const struct window *window, const struct depthwise_four *four, const int8_t *input,
                          int32_t top, int32_t first, int32_t end, int8_t *output) {
  const int32_t step = window->dilation_width * window->pixel, line = window->dilation_height * window->width * window->pixel;
  int32_t i[2], j[2];
  clip_taps(top, window->dilation_height, window->kernel_height, window->height, &i[0], &i[1]);
  const int8_t *source = input + (top + i[0] * window->dilation_height) * window->width * window->pixel;
  const int unrolled = i[0] == 0 && i[1] == 3 && window->kernel_height == 3 && window->kernel_width == 3;
  for (int32_t x = 0; x < window->output_width; x++, output += window->output_pixel) {
    const int32_t left = x * window->stride_width - window->left;
    if (unrolled && x == first && end > first) {
      output = depthwise_3x3(four, source + left * window->pixel, end - first, window->stride_width * window->pixel, step, line,
                             output, window->output_pixel) - window->output_pixel;
      x = end - 1;
      continue;
    }
    j[0] = 0, j[1] = window->kernel_width;
    if (x < first || x >= end) clip_taps(left, window->dilation_width, window->kernel_width, window->width, &j[0], &j[1]);
    depthwise_position(window, four, source + (left + j[0] * window->dilation_width) * window->pixel, i, j, step, line, output);
  }
}

KERNEL void depthwise_conv_2d(const struct window *window, const struct filters *filters, const int8_t *input,
                              int8_t *output, int8_t *scratch) {
  const int32_t outputs = filters->outputs, positions = window->output_height * window->output_width;
  const int32_t reach = (window->kernel_width - 1) * window->dilation_width + 1, stride = window->stride_width;
  int32_t first = (window->left + stride - 1) / stride, end = (window->width - reach + window->left) / stride + 1;
  struct depthwise_four four;
  if (window->width < reach) end = 0;
  for (int32_t channel = 0;;) {
    depthwise_prepare(window, filters, channel, (int32_t *)(void *)scratch, &four);
    const int8_t *from = input + channel;
    int8_t *to = output + channel;
    for (int32_t n = 0; n < window->batches; n++, from += window->height * window->width * window->pixel) {
      for (int32_t y = 0; y < window->output_height; y++, to += window->output_width * outputs) {
        depthwise_row(window, &four, from, y * window->stride_height - window->top, first, end, to);
      }
    }
    if (channel >= outputs - 4) break;
    channel = channel + 8 <= outputs ? channel + 4 : outputs - 4; /* the last may be computed with some before them */
  }
  if (filters->low > -128 || filters->high < 127) {
    clamp_values(output, window->batches * positions * outputs, filters->low, filters->high);
  }
}
#else
static inline void depthwise_conv_2d(const struct window *window, const struct filters *filters, const int8_t *input,
                                     int8_t *output, int8_t *scratch) {
  (void)scratch;
  depthwise_conv_2d_plain(window, filters, input, output);
}
#endif

#endif
