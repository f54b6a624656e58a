/* CONV_2D: each position's window as a column, times the matrix of filters. */
#ifndef KERNELS_CONV_2D_H
#define KERNELS_CONV_2D_H

#include "conv_2d_window.h"
#include "dot.h"

/* `scratch`: kernel_height * kernel_width * depth bytes. */
KERNEL void conv_2d_plain(const struct window *window, const struct matrix *matrix, const int8_t *input,
                          int8_t *output, int8_t *scratch) {
  const int32_t positions = window->output_height * window->output_width;
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * window->pixel) {
    for (int32_t i = 0; i < positions; i++, output += window->output_pixel) {
      gather_columns(window, input, i, 1, scratch, 0);
      dot_columns_plain(matrix, scratch, 0, 1, output, 0);
    }
  }
}

/* The fast form, for `outputs` of 4 or more.
 *
 * `columns`: how many positions' columns the scratch has room for, 1, 2 or 4. With d the bytes of a window, rounded up
 * to a multiple of 4: d for one column, 2 d for each of several, and d more if depth is no multiple of 4. */
#if defined(KERNELS_DSP)
/* Four int8 of one of several columns become the words even and odd, `columns` words apart: see `dot_pair` and
 * `dot_quad`. */
static inline int32_t *widen_run(const int8_t *from, int32_t words, int32_t *to, int32_t columns) {
  for (; words > 0; words--, from += 4, to += columns) {
    const int32_t word = load_word(from);
    *to = even(word);
    to += columns;
    *to = odd(word);
  }
  return to;
}

static inline int32_t *widen_padding(int32_t halves, int32_t words, int32_t *to, int32_t columns) {
  for (words *= 2; words > 0; words--, to += columns) *to = halves;
  return to;
}

/* `gather_column` into one of several columns of int16; depth is a multiple of 4. */
static inline void gather_wide(const struct window *window, const int8_t *input, int32_t y, int32_t x, int32_t *to,
                               int32_t columns) {
  const int32_t words = window->depth / 4, taps = window->kernel_width, dilation = window->dilation_width;
  const int32_t padding = (int32_t)(((uint32_t)window->zero_point & 0xFFFF) * 0x10001u);
  const int32_t line = window->width * window->pixel;
  const int whole = dilation == 1 && window->depth == window->pixel && x >= 0 && x + taps <= window->width;
  for (int32_t i = window->kernel_height; i > 0; i--, y += window->dilation_height) {
    if (y < 0 || y >= window->height) {
      to = widen_padding(padding, taps * words, to, columns);
    } else if (whole) {
      to = widen_run(input + y * line + x * window->pixel, taps * words, to, columns);
    } else {
      for (int32_t tap = 0, at = x; tap < taps; tap++, at += dilation) {
        if (at < 0 || at >= window->width) {
          to = widen_padding(padding, words, to, columns);
        } else {
          to = widen_run(input + y * line + at * window->pixel, words, to, columns);
        }
      }
    }
  }
}

/* The columns of as many positions as there are columns, from number `first` on, as int16. `spare`: room for one of
 * int8, whose end is 0 up to a whole word. */
KERNEL void gather_interleaved(const struct window *window, const int8_t *input, int32_t first, int32_t columns,
                               int32_t *to, int8_t *spare, int32_t words) {
  const int32_t right = (window->output_width - 1) * window->stride_width - window->left, step = window->stride_width;
  int32_t y = first / window->output_width;
  int32_t x = (first - y * window->output_width) * step - window->left;
  y = y * window->stride_height - window->top;
  for (int32_t i = 0; i < columns; i++) {
    if (window->depth % 4 == 0) {
      gather_wide(window, input, y, x, to + i, columns);
    } else {
      gather_column(window, input, y, x, spare);
      widen_run(spare, words, to + i, columns);
    }
    x += step;
    if (x > right) {
      x = -window->left;
      y += window->stride_height;
    }
  }
}

KERNEL void conv_2d(const struct window *window, const struct matrix *matrix, const int8_t *input, int8_t *output,
                    int8_t *scratch, int32_t columns) {
  const int32_t pixel = window->output_pixel, words = (matrix->depth + 3) / 4;
  const int32_t positions = window->output_height * window->output_width;
  int32_t *wide = (int32_t *)(void *)scratch;
  int8_t *spare = scratch + 8 * words * columns, *first = output;
  if (columns > 1 && window->depth % 4) memset(spare, 0, (size_t)(4 * words));
  for (int32_t n = 0; n < window->batches; n++, first += positions * pixel) {
    for (int32_t i = 0; i < positions; i += columns) {
      if (positions < columns) columns = 1;
      if (i > positions - columns) i = positions - columns; /* the last are computed with some before them, once more */
      int8_t *to = first + i * pixel;
      if (columns == 1) {
        gather_columns(window, input, i, 1, scratch, 0);
        dot_single(matrix, scratch, to);
      } else {
        gather_interleaved(window, input, i, columns, wide, spare, words);
        if (columns == 2) {
          dot_pair(matrix, wide, to, to + pixel);
        } else {
          dot_quad(matrix, wide, to, pixel);
        }
      }
    }
    input += window->height * window->width * window->pixel;
  }
  if (matrix->low > -128 || matrix->high < 127) {
    for (; output != first; output += pixel) clamp_values(output, matrix->outputs, matrix->low, matrix->high);
  }
}
#elif defined(KERNELS_MVE)
KERNEL void conv_2d(const struct window *window, const struct matrix *matrix, const int8_t *input, int8_t *output,
                    int8_t *scratch, int32_t columns) {
  const int32_t length = (matrix->depth + 3) / 4 * 4, positions = window->output_height * window->output_width;
  const int32_t most = columns > 1 ? 2 * columns : 1; /* of int8 instead of int16 */
  for (int32_t n = 0; n < window->batches; n++, input += window->height * window->width * window->pixel) {
    for (int32_t i = 0, count = most; i < positions; i += count) {
      if (count > positions - i) count = positions - i;
      gather_columns(window, input, i, count, scratch, length);
      dot_columns(matrix, scratch, length, count, output, window->output_pixel);
      output += count * window->output_pixel;
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
