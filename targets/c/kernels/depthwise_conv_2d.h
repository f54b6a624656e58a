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

/* The fast form, for one copy and four channels or more. `scratch`: 64 bytes and 8 per tap. */
#if defined(KERNELS_DSP)
/* One tap of four channels: x - zero_point of channels 0 and 2, then 1 and 3, as int16, times the weights' two words. */
#define DEPTHWISE_TAP(address, weights)                                                                       \
  "ldr %[x], " address "\n ldrd %[even], %[odd], " weights "\n"                                               \
  "sxtab16 %[t], %[zero], %[x]\n sxtab16 %[x], %[zero], %[x], ror #8\n"                                      \
  "smlabb %[a], %[t], %[even], %[a]\n smlatt %[c], %[t], %[even], %[c]\n"                                    \
  "smlabb %[b], %[x], %[odd], %[b]\n smlatt %[d], %[x], %[odd], %[d]\n"
#define DEPTHWISE_3(first, second, third)                                                                     \
  DEPTHWISE_TAP("[%[p]]", first) DEPTHWISE_TAP("[%[p], %[step]]", second)                                     \
  DEPTHWISE_TAP("[%[p], %[step], lsl #1]", third)
#define DEPTHWISE_NEXT "[%[w]], #8"

/* What a run of positions needs: all their windows have `rows` x `taps` taps inside the input. */
struct depthwise_run {
  int32_t count, rows, taps;
  int32_t stride, step, line; /* bytes from a position, a tap, a row of taps to the next */
  int32_t skip;               /* words from the weights behind a row of taps to the next row's */
  int32_t zero;               /* minus the input's zero point, twice */
  int32_t pixel;
};

enum { DEPTHWISE_WEIGHTS = 16 };

/* Four channels: two times the bias, multipliers, what is added before the shift (half of the last place, and the zero
 * point), shifts; then for every tap two words, two times the weights of channels 0 and 2, and of 1 and 3. Twice, because
 * the high half of 2 a m is then that of one product. */
KERNEL void depthwise_prepare(const struct window *window, const struct filters *filters, int32_t channel,
                              int32_t *four) {
  const int8_t *from = filters->weights + channel;
  const int32_t *rescaling = filters->channels + 3 * channel, offset = 1 + 2 * filters->zero_point;
  for (int32_t i = 0; i < 4; i++, rescaling += 3) {
    four[i] = 2 * rescaling[0];
    four[4 + i] = rescaling[1];
    four[8 + i] = (int32_t)((uint32_t)offset << (-1 - rescaling[2]));
    four[12 + i] = -rescaling[2];
  }
  four += DEPTHWISE_WEIGHTS;
  for (int32_t taps = window->kernel_height * window->kernel_width; taps > 0; taps--, from += filters->outputs) {
    uint32_t word;
    memcpy(&word, from, 4);
    const int32_t even = __sxtb16(word), odd = __sxtb16(word >> 8);
    *four++ = (int32_t)__sadd16(even, even);
    *four++ = (int32_t)__sadd16(odd, odd);
  }
}

/* `from` is the first tap of the first position that lies inside the input, `weights` that tap's. */
KERNEL void depthwise_positions(const struct depthwise_run *run, const int32_t *four, const int32_t *weights,
                                const int8_t *from, int8_t *output) {
  const int32_t step = run->step, line = run->line, zero = run->zero, rows = run->rows, taps = run->taps;
  const int unrolled = rows == 3 && taps == 3 && run->skip == 0;
  for (int32_t count = run->count; count > 0; count--, from += run->stride, output += run->pixel) {
    const int8_t *p = from;
    int32_t a, b, c, d, x, t, even, odd;
    if (unrolled) {
      __asm__ volatile(
          "ldrd %[a], %[b], [%[four]]\n ldrd %[c], %[d], [%[four], #8]\n"
          DEPTHWISE_3("[%[four], #64]", "[%[four], #72]", "[%[four], #80]") "add %[p], %[line]\n"
          DEPTHWISE_3("[%[four], #88]", "[%[four], #96]", "[%[four], #104]") "add %[p], %[line]\n"
          DEPTHWISE_3("[%[four], #112]", "[%[four], #120]", "[%[four], #128]")
          : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [p] "+r"(p), [x] "=&r"(x), [t] "=&r"(t),
            [even] "=&r"(even), [odd] "=&r"(odd)
          : [four] "r"(four), [step] "r"(step), [line] "r"(line), [zero] "r"(zero)
          : "memory");
    } else {
      const int32_t *w = weights;
      a = four[0], b = four[1], c = four[2], d = four[3];
      for (int32_t row = 0; row < rows; row++, p += line, w += run->skip) {
        const int8_t *tap = p;
        int32_t left = taps;
        for (; left >= 3; left -= 3, tap += 3 * step) {
          __asm__ volatile(DEPTHWISE_3(DEPTHWISE_NEXT, DEPTHWISE_NEXT, DEPTHWISE_NEXT)
                           : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [w] "+r"(w), [x] "=&r"(x),
                             [t] "=&r"(t), [even] "=&r"(even), [odd] "=&r"(odd)
                           : [p] "r"(tap), [step] "r"(step), [zero] "r"(zero)
                           : "memory");
        }
        for (; left > 0; left--, tap += step) {
          __asm__ volatile(DEPTHWISE_TAP("[%[p]]", DEPTHWISE_NEXT)
                           : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [w] "+r"(w), [x] "=&r"(x),
                             [t] "=&r"(t), [even] "=&r"(even), [odd] "=&r"(odd)
                           : [p] "r"(tap), [zero] "r"(zero)
                           : "memory");
        }
      }
    }
    /* as `requantize`, with the sum's sign for the product's: they differ only where the product is 0 and rounds to 0 */
    __asm__ volatile(
        "ldrd %[x], %[t], [%[four], #16]\n ldrd %[even], %[odd], [%[four], #32]\n"
        "smmlar %[x], %[a], %[x], %[even]\n smmlar %[t], %[b], %[t], %[odd]\n"
        "ldrd %[even], %[odd], [%[four], #48]\n"
        "add %[x], %[x], %[a], asr #31\n asr %[x], %[x], %[even]\n ssat %[x], #8, %[x]\n strb %[x], [%[to]]\n"
        "add %[t], %[t], %[b], asr #31\n asr %[t], %[t], %[odd]\n ssat %[t], #8, %[t]\n strb %[t], [%[to], #1]\n"
        "ldrd %[x], %[t], [%[four], #24]\n ldrd %[even], %[odd], [%[four], #40]\n"
        "smmlar %[x], %[c], %[x], %[even]\n smmlar %[t], %[d], %[t], %[odd]\n"
        "ldrd %[even], %[odd], [%[four], #56]\n"
        "add %[x], %[x], %[c], asr #31\n asr %[x], %[x], %[even]\n ssat %[x], #8, %[x]\n strb %[x], [%[to], #2]\n"
        "add %[t], %[t], %[d], asr #31\n asr %[t], %[t], %[odd]\n ssat %[t], #8, %[t]\n strb %[t], [%[to], #3]\n"
        : [x] "=&r"(x), [t] "=&r"(t), [even] "=&r"(even), [odd] "=&r"(odd)
        : [a] "r"(a), [b] "r"(b), [c] "r"(c), [d] "r"(d), [four] "r"(four), [to] "r"(output)
        : "memory");
  }
}

/* A row of positions. From `first` to `end`, windows lie inside the input from left to right. */
KERNEL void depthwise_row(const struct window *window, struct depthwise_run *run, const int32_t *four,
                          const int8_t *input, int32_t top, int32_t first, int32_t end, int8_t *output) {
  const int32_t all = window->kernel_width, dilation = window->dilation_width, pixel = window->pixel;
  int32_t i[2], j[2];
  clip_taps(top, window->dilation_height, window->kernel_height, window->height, &i[0], &i[1]);
  run->rows = i[1] - i[0];
  input += (top + i[0] * window->dilation_height) * window->width * pixel;
  for (int32_t x = 0; x < window->output_width; x += run->count) {
    const int32_t left = x * window->stride_width - window->left;
    const int inside = x >= first && x < end;
    j[0] = 0, j[1] = all;
    if (!inside) clip_taps(left, dilation, all, window->width, &j[0], &j[1]);
    run->count = inside ? end - x : 1;
    run->taps = j[1] - j[0];
    run->skip = 2 * (all - run->taps);
    depthwise_positions(run, four, four + DEPTHWISE_WEIGHTS + 2 * (i[0] * all + j[0]),
                        input + (left + j[0] * dilation) * pixel, output + x * window->output_pixel);
  }
}

KERNEL void depthwise_conv_2d(const struct window *window, const struct filters *filters, const int8_t *input,
                              int8_t *output, int8_t *scratch) {
  const int32_t outputs = filters->outputs, row = window->output_width * outputs;
  const int32_t reach = (window->kernel_width - 1) * window->dilation_width + 1, stride = window->stride_width;
  const int32_t first = (window->left + stride - 1) / stride;
  const int32_t behind = window->width < reach ? 0 : (window->width - reach + window->left) / stride + 1;
  const int32_t end = behind < window->output_width ? behind : window->output_width;
  int32_t *four = (int32_t *)(void *)scratch;
  struct depthwise_run run = {0};
  run.stride = stride * window->pixel;
  run.step = window->dilation_width * window->pixel;
  run.line = window->dilation_height * window->width * window->pixel;
  run.zero = (int32_t)(((uint32_t)-window->zero_point & 0xFFFF) * 0x10001u);
  run.pixel = window->output_pixel;
  for (int32_t channel = 0;;) {
    depthwise_prepare(window, filters, channel, four);
    const int8_t *from = input + channel;
    int8_t *to = output + channel;
    for (int32_t n = 0; n < window->batches; n++, from += window->height * window->width * window->pixel) {
      for (int32_t y = 0; y < window->output_height; y++, to += row) {
        depthwise_row(window, &run, four, from, y * window->stride_height - window->top, first, end, to);
      }
    }
    if (channel >= outputs - 4) break;
    channel = channel + 8 <= outputs ? channel + 4 : outputs - 4; /* the last may be computed with some before them */
  }
  if (filters->low > -128 || filters->high < 127) {
    clamp_values(output, window->batches * window->output_height * row, filters->low, filters->high);
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
