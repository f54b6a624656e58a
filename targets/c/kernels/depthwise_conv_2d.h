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
static inline void clip_taps(int32_t start, int32_t dilation, int32_t taps, int32_t size, int32_t *first,
                             int32_t *end) {
  *first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  *end = start + (taps - 1) * dilation >= size ? (size - start + dilation - 1) / dilation : taps;
}

/* Where a window's taps lie on the input. */
struct depthwise_taps {
  const int8_t *values, *weights; /* of the first tap inside the input, channel 0 */
  int32_t rows, taps;             /* inside the input */
  int32_t line, step;             /* values from a row of taps, a tap, to the next */
  int32_t skip;                   /* weights from the end of a row of taps to the next */
};

/* One output channel: `c` of the input, `output` of the weights. */
static inline int32_t depthwise_sum(const struct depthwise_taps *taps, int32_t outputs, int32_t zero, int32_t c,
                                    int32_t output) {
  const int8_t *line = taps->values + c, *w = taps->weights + output;
  int32_t sum = 0;
  for (int32_t row = taps->rows; row > 0; row--, line += taps->line, w += taps->skip) {
    const int8_t *x = line;
    for (int32_t tap = taps->taps; tap > 0; tap--, x += taps->step, w += outputs) sum += (*x - zero) * *w;
  }
  return sum;
}

/* Four channels from `c` on, of input and output. */
static inline void depthwise_sums(const struct depthwise_taps *taps, int32_t outputs, int32_t zero, int32_t c,
                                  int32_t *sums) {
  const int8_t *line = taps->values + c, *w = taps->weights + c;
  int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (int32_t row = taps->rows; row > 0; row--, line += taps->line, w += taps->skip) {
    const int8_t *x = line;
    for (int32_t tap = taps->taps; tap > 0; tap--, x += taps->step, w += outputs) {
      s0 += (x[0] - zero) * w[0];
      s1 += (x[1] - zero) * w[1];
      s2 += (x[2] - zero) * w[2];
      s3 += (x[3] - zero) * w[3];
    }
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

/* All output channels at one position. */
static inline void depthwise_channels(const struct depthwise_taps *taps, const struct filters *filters, int32_t zero,
                                      int8_t *output) {
  const int32_t outputs = filters->outputs;
  const int32_t *channel = filters->channels;
  int32_t copy = 0, from = 0, sums[4];
  for (int32_t c = 0; c < outputs;) {
    int32_t count = 1;
    if (filters->copies == 1 && c + 4 <= outputs) {
      count = 4;
      depthwise_sums(taps, outputs, zero, c, sums);
    } else {
      sums[0] = depthwise_sum(taps, outputs, zero, filters->copies == 1 ? c : from, c);
      if (++copy == filters->copies) copy = 0, from++;
    }
    for (int32_t i = 0; i < count; i++, c++, channel += 3) {
      const int32_t value = multiply_by_quantized_multiplier(sums[i] + channel[0], channel[1], channel[2]);
      output[c] = (int8_t)clamp(value + filters->zero_point, filters->low, filters->high);
    }
  }
}

KERNEL void depthwise_conv_2d_plain(const struct window *window, const struct filters *filters, const int8_t *input,
                                    int8_t *output) {
  const int32_t outputs = filters->outputs, pixel = window->pixel, kernel = window->kernel_width;
  struct depthwise_taps taps;
  taps.step = window->dilation_width * pixel;
  taps.line = window->dilation_height * window->width * pixel;
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * pixel) {
    for (int32_t y = 0; y < window->output_height; y++) {
      const int32_t top = y * window->stride_height - window->top;
      int32_t i[2], j[2];
      clip_taps(top, window->dilation_height, window->kernel_height, window->height, &i[0], &i[1]);
      taps.rows = i[1] - i[0];
      for (int32_t x = 0; x < window->output_width; x++, output += outputs) {
        const int32_t left = x * window->stride_width - window->left;
        clip_taps(left, window->dilation_width, kernel, window->width, &j[0], &j[1]);
        taps.taps = j[1] - j[0];
        taps.skip = (kernel - taps.taps) * outputs;
        if (taps.rows > 0 && taps.taps > 0) {
          const int32_t row = top + i[0] * window->dilation_height;
          taps.values = input + (row * window->width + left + j[0] * window->dilation_width) * pixel;
          taps.weights = filters->weights + (i[0] * kernel + j[0]) * outputs;
        } else { /* no tap at all */
          taps.values = input;
          taps.weights = filters->weights;
        }
        depthwise_channels(&taps, filters, window->zero_point, output);
      }
    }
  }
}

#if defined(KERNELS_DSP) || defined(KERNELS_MVE)
/* What a run of positions needs: all their windows have `rows` x `taps` taps inside the input. */
struct depthwise_run {
  int32_t count, rows, taps;
  int32_t stride, step, line; /* bytes from a position, a tap, a row of taps to the next */
  int32_t skip;               /* taps outside the input, from the end of a row of taps to the next row's */
  int32_t pixel;              /* bytes from an output to the next */
};

/* The positions of one axis whose windows lie inside the input: first and behind the last. */
static inline void depthwise_inside(int32_t size, int32_t output, int32_t kernel, int32_t dilation, int32_t stride,
                                    int32_t padding, int32_t *first, int32_t *end) {
  const int32_t room = size - (kernel - 1) * dilation - 1 + padding;
  *first = (padding + stride - 1) / stride;
  *end = room < padding ? 0 : room / stride + 1;
  if (*end > output) *end = output;
}

/* Four (DSP) or sixteen (Helium) channels of a run. `from` is the first tap of the first position that lies inside the
 * input, `tap` that tap's number; `lanes` is what these channels need, in the form of each kind of core. */
struct depthwise_lanes;
KERNEL void depthwise_positions(const struct depthwise_run *run, struct depthwise_lanes *lanes, int32_t tap,
                                const int8_t *from, int8_t *to);

/* All positions of one image: runs along the rows inside, and along the columns at the left and right border. */
KERNEL void depthwise_image(const struct window *window, struct depthwise_run *run, struct depthwise_lanes *lanes,
                            const int8_t *input, int8_t *output) {
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
      run->skip = kernel - run->taps;
      const int32_t line = window->width * pixel, next = window->stride_height * line;
      const int8_t *from = input + (top + i[0] * window->dilation_height) * line + (left + j[0] * dilation) * pixel;
      int8_t *to = output + y * to_row + x * to_pixel;
      const int across = columns > 1; /* else down */
      run->count = across ? columns : rows;
      run->stride = across ? window->stride_width * pixel : next;
      run->pixel = across ? to_pixel : to_row;
      for (int32_t row = across ? rows : 1; row > 0; row--, from += next, to += to_row) {
        depthwise_positions(run, lanes, i[0] * kernel + j[0], from, to);
      }
    }
  }
}


/* All positions of all images. */
KERNEL void depthwise_images(const struct window *window, struct depthwise_lanes *lanes, const int8_t *input,
                             int8_t *output) {
  struct depthwise_run run = {0, 0, 0, 0, 0, 0, 0, 0};
  run.step = window->dilation_width * window->pixel;
  run.line = window->dilation_height * window->width * window->pixel;
  for (int32_t n = 0; n < window->batches; n++) {
    depthwise_image(window, &run, lanes, input, output);
    input += window->height * window->width * window->pixel;
    output += window->output_height * window->output_width * window->output_pixel;
  }
}
#endif

/* The fast form, for one copy and four channels or more. `scratch`: 96 bytes and 8 per
 * tap, and at least 16 per tap. */
#if defined(KERNELS_DSP)
/* One tap of four channels: x - zero_point of channels 0 and 2, then 1 and 3, as int16, times the two words of the
 * weights. */
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
  "ldrd %[x], %[t], [%[lanes], #" multipliers "]\n ldrd %[even], %[odd], [%[lanes], #" addends "]\n"            \
  "smmlar %[x], " first ", %[x], %[even]\n smmlar %[t], " second ", %[t], %[odd]\n"                          \
  "ldrd %[even], %[odd], [%[lanes], #" shifts "]\n"                                                            \
  "add %[x], %[x], " first ", asr #31\n asr %[x], %[x], %[even]\n ssat %[x], #8, %[x]\n"                     \
  "add %[t], %[t], " second ", asr #31\n asr %[t], %[t], %[odd]\n ssat %[t], #8, %[t]\n"                     \
  "strb %[x], [%[to], #" byte0 "]\n strb %[t], [%[to], #" byte1 "]\n"
#define DEPTHWISE_REQUANTIZE                                                                                  \
  DEPTHWISE_REQUANTIZE_2("%[a]", "%[b]", "16", "32", "48", "0", "1")                                          \
  DEPTHWISE_REQUANTIZE_2("%[c]", "%[d]", "24", "40", "56", "2", "3")

/* Read by assembly: the offsets of the members are in it. Biases and weights are twice as large, because the high half
 * of 2 a m is then that of one product. */
struct depthwise_lanes {
  int32_t bias[4], multiplier[4];
  int32_t addend[4]; /* before the shift: half of the last place, and the zero point */
  int32_t shift[4];
  int32_t line, skip;         /* 64: bytes from a row of taps to the next, from its weights' end to the next row's */
  int32_t next, pixel, count; /* 72: of the loop of `depthwise_3x3` */
  int32_t zero;               /* 84: minus the input's zero point, in both halves */
  int32_t left, taps;         /* 88: rows to come, and the taps of each */
  int32_t weights[];          /* 96: for every tap two words, channels 0 and 2, and 1 and 3 */
};

KERNEL void depthwise_prepare(const struct window *window, const struct filters *filters, int32_t channel,
                              struct depthwise_lanes *lanes) {
  const int8_t *from = filters->weights + channel;
  const int32_t *rescaling = filters->channels + 3 * channel, offset = 1 + 2 * filters->zero_point;
  int32_t *to = lanes->weights;
  lanes->zero = (int32_t)(((uint32_t)-window->zero_point & 0xFFFF) * 0x10001u);
  for (int32_t i = 0; i < 4; i++, rescaling += 3) {
    lanes->bias[i] = 2 * rescaling[0];
    lanes->multiplier[i] = rescaling[1];
    lanes->addend[i] = (int32_t)((uint32_t)offset << (-1 - rescaling[2]));
    lanes->shift[i] = -rescaling[2];
  }
  for (int32_t taps = window->kernel_height * window->kernel_width; taps > 0; taps--, from += filters->outputs) {
    uint32_t word;
    memcpy(&word, from, 4);
    const int32_t even = __sxtb16(word), odd = __sxtb16(word >> 8);
    *to++ = (int32_t)__sadd16(even, even);
    *to++ = (int32_t)__sadd16(odd, odd);
  }
}

/* A run of whole 3x3 windows. */
static inline void depthwise_3x3(const struct depthwise_run *run, struct depthwise_lanes *lanes, const int8_t *p,
                                 int8_t *to) {
  const int32_t step = run->step, zero = lanes->zero;
  int32_t a, b, c, d, x, t, even, odd;
  lanes->line = run->line;
  lanes->next = run->stride - 2 * run->line;
  lanes->pixel = run->pixel;
  lanes->count = run->count;
  __asm__ volatile(
      "1:\n ldrd %[a], %[b], [%[lanes]]\n ldrd %[c], %[d], [%[lanes], #8]\n"
      DEPTHWISE_3("[%[lanes], #96]", "[%[lanes], #104]", "[%[lanes], #112]")
      "ldr %[t], [%[lanes], #64]\n add %[p], %[t]\n"
      DEPTHWISE_3("[%[lanes], #120]", "[%[lanes], #128]", "[%[lanes], #136]")
      "ldr %[t], [%[lanes], #64]\n add %[p], %[t]\n"
      DEPTHWISE_3("[%[lanes], #144]", "[%[lanes], #152]", "[%[lanes], #160]")
      DEPTHWISE_REQUANTIZE
      "ldrd %[x], %[t], [%[lanes], #72]\n add %[p], %[x]\n add %[to], %[t]\n"
      "ldr %[x], [%[lanes], #80]\n subs %[x], #1\n str %[x], [%[lanes], #80]\n bne 1b\n"
      : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [p] "+r"(p), [to] "+r"(to), [x] "=&r"(x), [t] "=&r"(t),
        [even] "=&r"(even), [odd] "=&r"(odd)
      : [lanes] "r"(lanes), [step] "r"(step), [zero] "r"(zero)
      : "memory", "cc");
}

KERNEL void depthwise_positions(const struct depthwise_run *run, struct depthwise_lanes *lanes, int32_t tap,
                                const int8_t *from, int8_t *to) {
  const int32_t step = run->step, zero = lanes->zero, rows = run->rows, taps = run->taps, skip = 2 * run->skip;
  if (tap == 0 && rows == 3 && taps == 3 && skip == 0) {
    depthwise_3x3(run, lanes, from, to);
    return;
  }
  lanes->line = run->line;
  lanes->skip = 4 * skip;
  lanes->taps = rows > 0 ? taps : 0;
  for (int32_t count = run->count; count > 0; count--, from += run->stride, to += run->pixel) {
    const int32_t *w = lanes->weights + 2 * tap;
    const int8_t *line = from;
    int32_t a = lanes->bias[0], b = lanes->bias[1], c = lanes->bias[2], d = lanes->bias[3];
    int32_t x, t, even, odd;
    if (lanes->taps == 2 || lanes->taps == 3) {
      const int8_t *p = line;
      lanes->left = rows;
      __asm__ volatile(
          "1:\n ldr %[t], [%[lanes], #92]\n cmp %[t], #3\n beq 2f\n"
          DEPTHWISE_TAP("[%[p]]", DEPTHWISE_NEXT) DEPTHWISE_TAP("[%[p], %[step]]", DEPTHWISE_NEXT)
          "b 3f\n2:\n" DEPTHWISE_3(DEPTHWISE_NEXT, DEPTHWISE_NEXT, DEPTHWISE_NEXT)
          "3:\n ldrd %[x], %[t], [%[lanes], #64]\n add %[p], %[x]\n add %[w], %[t]\n"
          "ldr %[t], [%[lanes], #88]\n subs %[t], #1\n str %[t], [%[lanes], #88]\n bne 1b\n"
          : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [p] "+r"(p), [w] "+r"(w), [x] "=&r"(x),
            [t] "=&r"(t), [even] "=&r"(even), [odd] "=&r"(odd)
          : [lanes] "r"(lanes), [step] "r"(step), [zero] "r"(zero)
          : "memory", "cc");
    } else {
      for (int32_t row = rows; row > 0; row--, line += run->line, w += skip) {
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
    }
    __asm__ volatile(DEPTHWISE_REQUANTIZE
                     : [x] "=&r"(x), [t] "=&r"(t), [even] "=&r"(even), [odd] "=&r"(odd)
                     : [a] "r"(a), [b] "r"(b), [c] "r"(c), [d] "r"(d), [lanes] "r"(lanes), [to] "r"(to)
                     : "memory");
  }
}

KERNEL void depthwise_conv_2d(const struct window *window, const struct filters *filters, const int8_t *input,
                              int8_t *output, int8_t *scratch) {
  struct depthwise_lanes *lanes = (struct depthwise_lanes *)(void *)scratch;
  const int32_t outputs = filters->outputs;
  for (int32_t channel = 0;;) {
    depthwise_prepare(window, filters, channel, lanes);
    depthwise_images(window, lanes, input + channel, output + channel);
    if (channel >= outputs - 4) break;
    channel = channel + 8 <= outputs ? channel + 4 : outputs - 4; /* the last may be computed with some before them */
  }
  if (filters->low > -128 || filters->high < 127) {
    clamp_values(output, window->batches * window->output_height * window->output_width * outputs, filters->low,
                 filters->high);
  }
}
#elif defined(KERNELS_MVE)
/* Vectors of sixteen channels are in the order in which VMULL and VMOVL take bytes apart: channels 0, 4, 8, 12, then
 * 2, 6, 10, 14, then 1, 5, 9, 13, then 3, 7, 11, 15. */
struct depthwise_lanes {
  int32_t bias[4][4], multiplier[4][4], shift[4][4], start[4][4];
  int8_t low[16], high[16];
  int32_t zero_in, zero_out;
  int32_t count;   /* channels, 16 or less */
  int8_t *weights; /* for every tap 16, zeros behind the channels */
};

KERNEL void depthwise_prepare(const struct window *window, const struct filters *filters, int32_t channel,
                              struct depthwise_lanes *lanes) {
  const int8_t *from = filters->weights + channel;
  int8_t *to = lanes->weights;
  lanes->count = filters->outputs < 16 ? filters->outputs : 16;
  lanes->zero_in = window->zero_point;
  lanes->zero_out = filters->zero_point;
  for (int32_t i = 0; i < 16; i++) {
    const int32_t c = (i & 3) * 4 + (i >> 3) + 2 * (i >> 2 & 1);
    const int32_t *rescaling = filters->channels + 3 * (channel + (c < lanes->count ? c : 0));
    lanes->bias[i >> 2][i & 3] = rescaling[0];
    lanes->multiplier[i >> 2][i & 3] = rescaling[1];
    lanes->shift[i >> 2][i & 3] = rescaling[2];
  }
  vst1q_s8(lanes->low, vdupq_n_s8((int8_t)filters->low));
  vst1q_s8(lanes->high, vdupq_n_s8((int8_t)filters->high));
  const mve_pred16_t some = vctp8q((uint32_t)lanes->count);
  for (int32_t taps = window->kernel_height * window->kernel_width; taps > 0; taps--) {
    vst1q_s8(to, vldrbq_z_s8(from, some));
    from += filters->outputs;
    to += 16;
  }
}

/* Bias less zero point times the sum of the weights that lie on the input. */
static inline void depthwise_start(const struct depthwise_run *run, struct depthwise_lanes *lanes, const int8_t *w) {
  int16x8_t even = vdupq_n_s16(0), odd = vdupq_n_s16(0);
  const int32_t zero = -lanes->zero_in;
  for (int32_t row = 0; row < run->rows; row++, w += run->skip * 16) {
    for (int32_t tap = 0; tap < run->taps; tap++, w += 16) {
      const int8x16_t weights = vldrbq_s8(w);
      even = vaddq_s16(even, vmovlbq_s8(weights));
      odd = vaddq_s16(odd, vmovltq_s8(weights));
    }
  }
  vst1q_s32(lanes->start[0], vmlaq_n_s32(vld1q_s32(lanes->bias[0]), vmovlbq_s16(even), zero));
  vst1q_s32(lanes->start[1], vmlaq_n_s32(vld1q_s32(lanes->bias[1]), vmovltq_s16(even), zero));
  vst1q_s32(lanes->start[2], vmlaq_n_s32(vld1q_s32(lanes->bias[2]), vmovlbq_s16(odd), zero));
  vst1q_s32(lanes->start[3], vmlaq_n_s32(vld1q_s32(lanes->bias[3]), vmovltq_s16(odd), zero));
}

/* Products of int8 values and weights -127..127: the sum of two fits 16 bits. There are eight registers: the second
 * tap's weights are read twice. `next` are instructions that lead from a tap to the one behind it. */
#define DEPTHWISE_WIDEN                                                                     \
  "vmovlb.s16 %q[v], %q[even]\n vadd.i32 %q[s0], %q[s0], %q[v]\n"                           \
  "vmovlt.s16 %q[v], %q[even]\n vadd.i32 %q[s1], %q[s1], %q[v]\n"                           \
  "vmovlb.s16 %q[v], %q[odd]\n vadd.i32 %q[s2], %q[s2], %q[v]\n"                            \
  "vmovlt.s16 %q[v], %q[odd]\n vadd.i32 %q[s3], %q[s3], %q[v]\n"
#define DEPTHWISE_TAP(next)                                                                 \
  "vldrb.8 %q[odd], [%[p]]\n" next "vldrb.8 %q[v], [%[w]], #16\n"                           \
  "vmullb.s8 %q[even], %q[odd], %q[v]\n vmullt.s8 %q[odd], %q[odd], %q[v]\n"
#define DEPTHWISE_1(next) DEPTHWISE_TAP(next) DEPTHWISE_WIDEN
#define DEPTHWISE_2(next, after)                                                            \
  DEPTHWISE_TAP(next)                                                                       \
  "vldrb.8 %q[x], [%[p]]\n" after "vldrb.8 %q[v], [%[w]]\n vmullb.s8 %q[v], %q[x], %q[v]\n" \
  "vadd.i16 %q[even], %q[even], %q[v]\n vldrb.8 %q[v], [%[w]], #16\n"                       \
  "vmullt.s8 %q[v], %q[x], %q[v]\n vadd.i16 %q[odd], %q[odd], %q[v]\n" DEPTHWISE_WIDEN
#define DEPTHWISE_STEP "add %[p], %[step]\n"
#define DEPTHWISE_TURN "add %[p], %[turn]\n"
#define DEPTHWISE_OPERANDS                                                                  \
  : [s0] "+w"(s0), [s1] "+w"(s1), [s2] "+w"(s2), [s3] "+w"(s3), [x] "=&w"(x), [v] "=&w"(v), \
    [even] "=&w"(even), [odd] "=&w"(odd), [p] "+r"(p), [w] "+r"(w)                          \
  : [step] "r"(step), [turn] "r"(turn)                                                      \
  : "memory"

static inline int32x4_t depthwise_rescale(int32x4_t sums, const int32_t *multiplier, const int32_t *shift) {
  const int32x4_t values = vqrdmulhq_s32(sums, vld1q_s32(multiplier));
  return vrshlq_s32(vaddq_s32(values, vshrq_n_s32(values, 31)), vld1q_s32(shift));
}

static inline int8x16_t depthwise_requantize(const struct depthwise_lanes *lanes, int32x4_t s0, int32x4_t s1,
                                             int32x4_t s2, int32x4_t s3) {
  s0 = depthwise_rescale(s0, lanes->multiplier[0], lanes->shift[0]);
  s1 = depthwise_rescale(s1, lanes->multiplier[1], lanes->shift[1]);
  s2 = depthwise_rescale(s2, lanes->multiplier[2], lanes->shift[2]);
  s3 = depthwise_rescale(s3, lanes->multiplier[3], lanes->shift[3]);
  int16x8_t even = vqmovntq_s32(vqmovnbq_s32(vreinterpretq_s16_s32(s0), s0), s1);
  int16x8_t odd = vqmovntq_s32(vqmovnbq_s32(vreinterpretq_s16_s32(s2), s2), s3);
  even = vqaddq_n_s16(even, (int16_t)lanes->zero_out);
  odd = vqaddq_n_s16(odd, (int16_t)lanes->zero_out);
  const int8x16_t y = vqmovntq_s16(vqmovnbq_s16(vreinterpretq_s8_s16(even), even), odd);
  return vminq_s8(vmaxq_s8(y, vld1q_s8(lanes->low)), vld1q_s8(lanes->high));
}

/* Sixteen channels. */
static inline void depthwise_whole(const struct depthwise_run *run, const struct depthwise_lanes *lanes,
                                   const int8_t *weights, const int8_t *from, int8_t *to) {
  const int32_t step = run->step, turn = run->line - 2 * run->step, rows = run->rows, taps = run->taps;
  const int whole = rows == 3 && taps == 3 && run->skip == 0;
  for (int32_t count = run->count; count > 0; count--, from += run->stride, to += run->pixel) {
    const int8_t *p = from, *w = weights;
    int32x4_t s0 = vld1q_s32(lanes->start[0]), s1 = vld1q_s32(lanes->start[1]);
    int32x4_t s2 = vld1q_s32(lanes->start[2]), s3 = vld1q_s32(lanes->start[3]);
    int32x4_t x, v, even, odd;
    if (whole) {
      __asm__ volatile(
          DEPTHWISE_2(DEPTHWISE_STEP, DEPTHWISE_STEP) DEPTHWISE_2(DEPTHWISE_TURN, DEPTHWISE_STEP)
          DEPTHWISE_2(DEPTHWISE_STEP, DEPTHWISE_TURN) DEPTHWISE_2(DEPTHWISE_STEP, DEPTHWISE_STEP)
          DEPTHWISE_1("") DEPTHWISE_OPERANDS);
    } else {
      for (int32_t row = 0; row < rows; row++, w += run->skip * 16) {
        p = from + row * run->line;
        for (int32_t left = taps; left > 0; left -= 2) {
          if (left == 1) {
            __asm__ volatile(DEPTHWISE_1("") DEPTHWISE_OPERANDS);
          } else {
            __asm__ volatile(DEPTHWISE_2(DEPTHWISE_STEP, DEPTHWISE_STEP) DEPTHWISE_OPERANDS);
          }
        }
      }
    }
    vst1q_s8(to, depthwise_requantize(lanes, s0, s1, s2, s3));
  }
}

/* Fewer than sixteen channels: nothing is read or written behind them. */
static inline void depthwise_some(const struct depthwise_run *run, const struct depthwise_lanes *lanes,
                                  const int8_t *weights, const int8_t *from, int8_t *to) {
  const mve_pred16_t some = vctp8q((uint32_t)lanes->count);
  for (int32_t count = run->count; count > 0; count--, from += run->stride, to += run->pixel) {
    const int8_t *line = from, *w = weights;
    int32x4_t s0 = vld1q_s32(lanes->start[0]), s1 = vld1q_s32(lanes->start[1]);
    int32x4_t s2 = vld1q_s32(lanes->start[2]), s3 = vld1q_s32(lanes->start[3]);
    for (int32_t row = run->rows; row > 0; row--, line += run->line, w += run->skip * 16) {
      const int8_t *p = line;
      for (int32_t tap = run->taps; tap > 0; tap--, p += run->step, w += 16) {
        const int8x16_t x = vldrbq_z_s8(p, some), v = vldrbq_s8(w);
        const int16x8_t even = vmullbq_int_s8(x, v), odd = vmulltq_int_s8(x, v);
        s0 = vaddq_s32(s0, vmovlbq_s16(even));
        s1 = vaddq_s32(s1, vmovltq_s16(even));
        s2 = vaddq_s32(s2, vmovlbq_s16(odd));
        s3 = vaddq_s32(s3, vmovltq_s16(odd));
      }
    }
    vstrbq_p_s8(to, depthwise_requantize(lanes, s0, s1, s2, s3), some);
  }
}

KERNEL void depthwise_positions(const struct depthwise_run *run, struct depthwise_lanes *lanes, int32_t tap,
                                const int8_t *from, int8_t *to) {
  const int8_t *weights = lanes->weights + 16 * tap;
  depthwise_start(run, lanes, weights);
  if (lanes->count == 16) {
    depthwise_whole(run, lanes, weights, from, to);
  } else {
    depthwise_some(run, lanes, weights, from, to);
  }
}

KERNEL void depthwise_conv_2d(const struct window *window, const struct filters *filters, const int8_t *input,
                              int8_t *output, int8_t *scratch) {
  struct depthwise_lanes lanes;
  const int32_t outputs = filters->outputs;
  lanes.weights = scratch;
  for (int32_t channel = 0;;) {
    depthwise_prepare(window, filters, channel, &lanes);
    depthwise_images(window, &lanes, input + channel, output + channel);
    if (channel >= outputs - 16) break;
    /* the last may be computed with some before them */
    channel = channel + 32 <= outputs ? channel + 16 : outputs - 16;
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
