/* From a sensor's counts to a decision: the same bits as compressor/tasks/imu/stream.py, whatever does the arithmetic.
 * Every operation is one float32 operation, rounded once (build without contraction, as -std=c99 does).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef STREAM_H
#define STREAM_H

#include <stdint.h>
#include <string.h>

enum { STREAM_CHANNELS = 6 };

/* Of an int8 input or output: real = scale * (integer - zero_point). */
struct stream_affine {
  float scale;
  int32_t zero_point;
};

/* To the nearest whole number, ties to even, within 1024 of 0. 3 * 2^22 has only whole numbers as neighbours. */
static int32_t stream_nearest(float value) {
  const float magic = 12582912.0f;
  const float limited = value > 1024.0f ? 1024.0f : value < -1024.0f ? -1024.0f : value;
  return (int32_t)((limited + magic) - magic);
}

/* A sample as the encoder takes it. `counts` and `to`: one value per channel. */
static void stream_scale(
    const int16_t *counts, const float *gain, const float *shift, struct stream_affine input, int8_t *to) {
  for (int32_t i = 0; i < STREAM_CHANNELS; i++) {
    const float product = (float)counts[i] * gain[i];
    const float scaled = product + shift[i];
    const int32_t step = stream_nearest(scaled / input.scale) + input.zero_point;
    to[i] = (int8_t)(step < -128 ? -128 : step > 127 ? 127 : step);
  }
}

/* The oldest of a ring's samples first: `next` is where the next sample goes. `length` in samples. */
static void stream_unroll(const int8_t *ring, int32_t next, int32_t length, int8_t *to) {
  const int32_t old = (length - next) * STREAM_CHANNELS;
  memcpy(to, ring + next * STREAM_CHANNELS, (size_t)old);
  memcpy(to + old, ring, (size_t)(next * STREAM_CHANNELS));
}

/* Into what is smoothed so far: `first` where nothing is. */
static void stream_smooth(float *smoothed, const float *scores, int32_t classes, float weight, int32_t first) {
  for (int32_t i = 0; i < classes; i++) {
    const float change = scores[i] - smoothed[i];
    const float part = weight * change;
    smoothed[i] = first ? scores[i] : smoothed[i] + part;
  }
}

/* The first of the largest. */
static int32_t stream_largest(const float *scores, int32_t classes) {
  int32_t best = 0;
  for (int32_t i = 1; i < classes; i++)
    if (scores[i] > scores[best]) best = i;
  return best;
}

#endif
