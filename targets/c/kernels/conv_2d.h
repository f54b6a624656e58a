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

/* The fast form, for `outputs` of 4 or more.
 *
 * `columns`: how many positions' columns the scratch has room for, 1 or 2. With d the bytes of a window, rounded up to a
 * multiple of 4: d for one column, 4 d for two, or 5 d if depth is no multiple of 4. */
#if defined(KERNELS_DSP)
/* Four int8 become the words even and odd, which lie 8 bytes apart: see `dot_pair`. */
static inline int32_t *widen_run(const int8_t *from, int32_t words, int32_t *to) {
  for (; words >= 2; words -= 2, from += 8, to += 8) {
    const int32_t a = load_word(from), b = load_word(from + 4);
    to[0] = even(a);
    to[2] = odd(a);
    to[4] = even(b);
    to[6] = odd(b);
  }
  if (words) {
    const int32_t a = load_word(from);
    to[0] = even(a);
    to[2] = odd(a);
    to += 4;
  }
  return to;
}

static inline int32_t *widen_padding(int32_t halves, int32_t words, int32_t *to) {
  for (; words > 0; words--, to += 4) to[0] = to[2] = halves;
  return to;
}

/* `gather_column` into one of the two columns of a pair; depth is a multiple of 4. */
KERNEL void gather_wide(const struct window *window, const int8_t *input, int32_t y, int32_t x, int32_t *to) {
  const int32_t depth = window->depth, taps = window->kernel_width, dilation = window->dilation_width;
  const int32_t padding = (int32_t)(((uint32_t)window->zero_point & 0xFFFF) * 0x10001u);
  const int whole = dilation == 1 && depth == window->pixel && x >= 0 && x + taps <= window->width;
  for (int32_t i = 0; i < window->kernel_height; i++, y += window->dilation_height) {
    const int8_t *line = input + y * window->width * window->pixel;
    if (y < 0 || y >= window->height) {
      to = widen_padding(padding, taps * depth / 4, to);
    } else if (whole) {
      to = widen_run(line + x * window->pixel, taps * depth / 4, to);
    } else {
      for (int32_t tap = 0, at = x; tap < taps; tap++, at += dilation) {
        if (at < 0 || at >= window->width) {
          to = widen_padding(padding, depth / 4, to);
        } else {
          to = widen_run(line + at * window->pixel, depth / 4, to);
        }
      }
    }
  }
}

KERNEL void gather_any(const struct window *window, const int8_t *input, int32_t y, int32_t x, int32_t *to,
                       int8_t *column, int32_t words) {
  if (window->depth % 4 == 0) {
    gather_wide(window, input, y, x, to);
  } else {
    gather_column(window, input, y, x, column);
    widen_run(column, words, to);
  }
}

KERNEL void conv_2d(const struct window *window, const struct matrix *matrix, const int8_t *input, int8_t *output,
                    int8_t *scratch, int32_t columns) {
  const int32_t pixel = window->output_pixel, words = (matrix->depth + 3) / 4;
  int32_t *pair = (int32_t *)(void *)scratch;
  int8_t *column = columns == 2 ? scratch + 16 * words : scratch, *all = output;
  if (columns == 2 && window->depth % 4) memset(column, 0, (size_t)(4 * words));
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * window->pixel) {
    const int32_t right = (window->output_width - 1) * window->stride_width - window->left;
    int32_t left = window->output_height * window->output_width, y = -window->top, x = -window->left;
    for (int8_t *previous = 0; left > 0; left--, output += pixel) {
      if (columns == 1 || (left == 1 && !previous)) {
        gather_column(window, input, y, x, scratch);
        dot_single(matrix, scratch, output);
      } else if (previous) {
        gather_any(window, input, y, x, pair + 1, column, words);
        dot_pair(matrix, pair, previous, output);
        previous = 0;
      } else {
        gather_any(window, input, y, x, pair, column, words);
        previous = output;
      }
      x += window->stride_width;
      if (x > right) {
        x = -window->left;
        y += window->stride_height;
      }
    }
  }
  if (matrix->low > -128 || matrix->high < 127) {
    const int32_t count = pixel == matrix->outputs ? (int32_t)(output - all) : matrix->outputs;
    for (; all < output; all += count == matrix->outputs ? pixel : count) clamp_values(all, count, matrix->low, matrix->high);
  }
}
#elif defined(KERNELS_MVE)
KERNEL void conv_2d(const struct window *window, const struct matrix *matrix, const int8_t *input, int8_t *output,
                    int8_t *scratch, int32_t columns) {
  const int32_t length = (matrix->depth + 3) / 4 * 4, most = columns == 2 ? 4 : 1;
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * window->pixel) {
    int32_t left = window->output_height * window->output_width, y = -window->top, x = -window->left;
    const int32_t right = (window->output_width - 1) * window->stride_width - window->left;
    while (left > 0) {
      const int32_t count = left < most ? left : most;
      for (int32_t i = 0; i < count; i++) {
        gather_column(window, input, y, x, scratch + i * length);
        x += window->stride_width;
        if (x > right) {
          x = -window->left;
          y += window->stride_height;
        }
      }
      dot_columns(matrix, scratch, length, count, output, window->output_pixel);
      output += count * window->output_pixel;
      left -= count;
    }
  }
}
#else
static inline void conv_2d(const struct window *window, const struct matrix *matrix, const int8_t *input,
                           int8_t *output, int8_t *scratch, int32_t columns) {
  (void)columns;
  conv_2d_plain(window, matrix, input, output, scratch);
}
#endif

#endif
