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

/* The fast form, for one copy and four channels or more. `scratch`: 80 bytes and 8 per tap. */
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
#define DEPTHWISE_OPERANDS                                                                                    \
  : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [w] "+r"(w), [x] "=&r"(x), [t] "=&r"(t),              \
    [even] "=&r"(even), [odd] "=&r"(odd)                                                                      \
  : [p] "r"(p), [step] "r"(step), [zero] "r"(zero)                                                            \
  : "memory"

/* As `requantize` for a sum that is twice too large, with the sum's sign for the product's: these differ only where the
 * product is 0, which rounds to 0 either way. */
#define DEPTHWISE_REQUANTIZE_2(first, second, multipliers, addends, shifts, byte0, byte1)                     \
  "ldrd %[x], %[t], [%[four], #" multipliers "]\n ldrd %[even], %[odd], [%[four], #" addends "]\n"            \
  "smmlar %[x], " first ", %[x], %[even]\n smmlar %[t], " second ", %[t], %[odd]\n"                          \
  "ldrd %[even], %[odd], [%[four], #" shifts "]\n"                                                            \
  "add %[x], %[x], " first ", asr #31\n asr %[x], %[x], %[even]\n ssat %[x], #8, %[x]\n"                     \
  "add %[t], %[t], " second ", asr #31\n asr %[t], %[t], %[odd]\n ssat %[t], #8, %[t]\n"                     \
  "strb %[x], [%[to], #" byte0 "]\n strb %[t], [%[to], #" byte1 "]\n"
#define DEPTHWISE_REQUANTIZE                                                                                  \
  DEPTHWISE_REQUANTIZE_2("%[a]", "%[b]", "16", "32", "48", "0", "1")                                          \
  DEPTHWISE_REQUANTIZE_2("%[c]", "%[d]", "24", "40", "56", "2", "3")

/* What a run of positions needs: all their windows have `rows` x `taps` taps inside the input. */
struct depthwise_run {
  int32_t count, rows, taps;
  int32_t stride, step, line; /* bytes from a position, a tap, a row of taps to the next */
  int32_t skip;               /* words from the weights behind a row of taps to the next row's */
  int32_t pixel;              /* bytes from an output to the next */
  int32_t zero;               /* minus the input's zero point, twice */
};

enum { DEPTHWISE_LOOP = 16, DEPTHWISE_WEIGHTS = 20 };

/* Four channels: two times the bias, multipliers, what is added before the shift (half of the last place, and the zero
 * point), shifts; room for the loop of `depthwise_3x3`; then for every tap two words, two times the weights of channels 0
 * and 2, and of 1 and 3. Twice, because the high half of 2 a m is then that of one product. */
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

/* A run of whole 3x3 windows. */
static inline void depthwise_3x3(const struct depthwise_run *run, int32_t *four, const int8_t *p, int8_t *to) {
  const int32_t step = run->step, zero = run->zero;
  int32_t a, b, c, d, x, t, even, odd;
  four[DEPTHWISE_LOOP] = run->line;
  four[DEPTHWISE_LOOP + 1] = run->stride - 2 * run->line;
  four[DEPTHWISE_LOOP + 2] = run->pixel;
  four[DEPTHWISE_LOOP + 3] = run->count;
  __asm__ volatile(
      "1:\n ldrd %[a], %[b], [%[four]]\n ldrd %[c], %[d], [%[four], #8]\n"
      DEPTHWISE_3("[%[four], #80]", "[%[four], #88]", "[%[four], #96]")
      "ldr %[t], [%[four], #64]\n add %[p], %[t]\n"
      DEPTHWISE_3("[%[four], #104]", "[%[four], #112]", "[%[four], #120]")
      "ldr %[t], [%[four], #64]\n add %[p], %[t]\n"
      DEPTHWISE_3("[%[four], #128]", "[%[four], #136]", "[%[four], #144]")
      DEPTHWISE_REQUANTIZE
      "ldrd %[x], %[t], [%[four], #68]\n add %[p], %[x]\n add %[to], %[t]\n"
      "ldr %[x], [%[four], #76]\n subs %[x], #1\n str %[x], [%[four], #76]\n bne 1b\n"
      : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [p] "+r"(p), [to] "+r"(to), [x] "=&r"(x), [t] "=&r"(t),
        [even] "=&r"(even), [odd] "=&r"(odd)
      : [four] "r"(four), [step] "r"(step), [zero] "r"(zero)
      : "memory", "cc");
}

/* `from` is the first tap of the first position that lies inside the input, `weights` that tap's. */
KERNEL void depthwise_positions(const struct depthwise_run *run, int32_t *four, const int32_t *weights,
                                const int8_t *from, int8_t *to) {
  const int32_t step = run->step, zero = run->zero, rows = run->rows, taps = run->taps;
  if (rows == 3 && taps == 3 && run->skip == 0) {
    depthwise_3x3(run, four, from, to);
    return;
  }
  for (int32_t count = run->count; count > 0; count--, from += run->stride, to += run->pixel) {
    const int32_t *w = weights;
    const int8_t *line = from;
    int32_t a = four[0], b = four[1], c = four[2], d = four[3];
    int32_t x, t, even, odd;
    for (int32_t row = rows; row > 0; row--, line += run->line, w += run->skip) {
      const int8_t *p = line;
      int32_t left = taps;
      for (; left >= 3; left -= 3, p += 3 * step) {
        __asm__ volatile(DEPTHWISE_3(DEPTHWISE_NEXT, DEPTHWISE_NEXT, DEPTHWISE_NEXT) DEPTHWISE_OPERANDS);
      }
      if (left == 2) {
        __asm__ volatile(DEPTHWISE_TAP("[%[p]]", DEPTHWISE_NEXT) DEPTHWISE_TAP("[%[p], %[step]]", DEPTHWISE_NEXT)
                             DEPTHWISE_OPERANDS);
      } else if (left == 1) {
        __asm__ volatile(DEPTHWISE_TAP("[%[p]]", DEPTHWISE_NEXT) DEPTHWISE_OPERANDS);
      }
    }
    __asm__ volatile(DEPTHWISE_REQUANTIZE
                     : [x] "=&r"(x), [t] "=&r"(t), [even] "=&r"(even), [odd] "=&r"(odd)
                     : [a] "r"(a), [b] "r"(b), [c] "r"(c), [d] "r"(d), [four] "r"(four), [to] "r"(to)
                     : "memory");
  }
}

/* The positions of one axis whose windows lie inside the input: first and behind the last. */
static inline void depthwise_inside(int32_t size, int32_t output, int32_t kernel, int32_t dilation, int32_t stride,
                                    int32_t padding, int32_t *first, int32_t *end) {
  const int32_t room = size - (kernel - 1) * dilation - 1 + padding;
  *first = (padding + stride - 1) / stride;
  *end = room < padding ? 0 : room / stride + 1;
  if (*end > output) *end = output;
}

/* All positions of one image: runs along the rows inside, and along the columns at the left and right border. */
KERNEL void depthwise_image(const struct window *window, struct depthwise_run *run, int32_t *four, const int8_t *input,
                            int8_t *output) {
  const int32_t pixel = window->pixel, kernel = window->kernel_width, width = window->output_width;
  const int32_t dilation = window->dilation_width, to_pixel = window->output_pixel, to_row = width * to_pixel;
  int32_t first[2], end[2], i[2], j[2], rows, columns;
  depthwise_inside(window->height, window->output_height, window->kernel_height, window->dilation_height,
                   window->stride_height, window->top, &first[0], &end[0]);
  depthwise_inside(window->width, width, kernel, dilation, window->stride_width, window->left, &first[1], &end[1]);
  for (int32_t y = 0; y < window->output_height; y += rows) {
    const int32_t top = y * window->stride_height - window->top;
    clip_taps(top, window->dilation_height, window->kernel_height, window->height, &i[0], &i[1]);
    rows = y >= first[0] && y < end[0] ? end[0] - y : 1;
    run->rows = i[1] - i[0];
    for (int32_t x = 0; x < width; x += columns) {
      const int32_t left = x * window->stride_width - window->left;
      clip_taps(left, dilation, kernel, window->width, &j[0], &j[1]);
      columns = x >= first[1] && x < end[1] ? end[1] - x : 1;
      run->taps = j[1] - j[0];
      run->skip = 2 * (kernel - run->taps);
      const int32_t *weights = four + DEPTHWISE_WEIGHTS + 2 * (i[0] * kernel + j[0]);
      const int32_t line = window->width * pixel, next = window->stride_height * line;
      const int8_t *from = input + (top + i[0] * window->dilation_height) * line + (left + j[0] * dilation) * pixel;
      int8_t *to = output + y * to_row + x * to_pixel;
      const int across = columns > 1; /* else down */
      run->count = across ? columns : rows;
      run->stride = across ? window->stride_width * pixel : next;
      run->pixel = across ? to_pixel : to_row;
      for (int32_t row = across ? rows : 1; row > 0; row--, from += next, to += to_row) {
        depthwise_positions(run, four, weights, from, to);
      }
    }
  }
}

KERNEL void depthwise_conv_2d(const struct window *window, const struct filters *filters, const int8_t *input,
                              int8_t *output, int8_t *scratch) {
  const int32_t outputs = filters->outputs, image = window->height * window->width * window->pixel;
  const int32_t output_image = window->output_height * window->output_width * outputs;
  int32_t *four = (int32_t *)(void *)scratch;
  struct depthwise_run run = {0, 0, 0, 0, 0, 0, 0, 0, 0};
  run.step = window->dilation_width * window->pixel;
  run.line = window->dilation_height * window->width * window->pixel;
  run.zero = (int32_t)(((uint32_t)-window->zero_point & 0xFFFF) * 0x10001u);
  for (int32_t channel = 0;;) {
    depthwise_prepare(window, filters, channel, four);
    for (int32_t n = 0; n < window->batches; n++) {
      depthwise_image(window, &run, four, input + n * image + channel, output + n * output_image + channel);
    }
    if (channel >= outputs - 4) break;
    channel = channel + 8 <= outputs ? channel + 4 : outputs - 4; /* the last may be computed with some before them */
  }
  if (filters->low > -128 || filters->high < 127) {
    clamp_values(output, window->batches * output_image, filters->low, filters->high);
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
