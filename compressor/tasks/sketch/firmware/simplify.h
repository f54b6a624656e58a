/* Ramer-Douglas-Peucker (compressor/tasks/sketch/simplify.py) in C99: the same points remain.
 *
 * For selectors that read points. To draw faster it does not pay: on a Cortex-M4 and OpenMoji's drawings at 32 px it
 * takes as many instructions as it saves at a tolerance of 0.008, which already shows, and more below.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef SKETCH_SIMPLIFY_H
#define SKETCH_SIMPLIFY_H

#include <stdint.h>
#include <string.h>

#include "raster.h"

/* Memory to work in, for strokes of at most `points` points: keep has points + 1 bytes, parts 2 * points + 2 numbers. */
struct simplifier {
  uint8_t *keep;
  int16_t *parts;
};

/* Of the points between `first` and `last`, the first one that is farthest from their segment; its squared distance.
 * The point after the end of a closed outline is its first. */
static int32_t simplify_farthest(const float *points, int32_t count, int32_t first, int32_t last, float *squared) {
  const int32_t end = last == count ? 0 : last;
  const float x0 = points[2 * first], y0 = points[2 * first + 1], x1 = points[2 * end], y1 = points[2 * end + 1];
  const float dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
  int32_t middle = first;
  float farthest = -1.0f;
  for (int32_t i = first + 1; i < last; i++) {
    const float px = points[2 * i] - x0, py = points[2 * i + 1] - y0;
    const float dot = px * dx + py * dy;
    float distance;
    if (dot <= 0.0f) {
      distance = px * px + py * py;
    } else if (dot >= length) {
      const float qx = points[2 * i] - x1, qy = points[2 * i + 1] - y1;
      distance = qx * qx + qy * qy;
    } else {
      const float cross = px * dy - py * dx;
      distance = cross * cross / length;
    }
    if (distance > farthest) middle = i, farthest = distance;
  }
  *squared = farthest;
  return middle;
}

/* Mark what remains of a stroke at the squared tolerance. */
static void simplify_mark(const float *points, int32_t count, int closed, float squared_tolerance,
                          const struct simplifier *memory) {
  int16_t *parts = memory->parts;
  const int32_t end = closed ? count : count - 1;
  int32_t waiting = 1;
  memset(memory->keep, 0, (size_t)count + 1);
  memory->keep[0] = memory->keep[end] = 1;
  parts[0] = 0, parts[1] = (int16_t)end;
  while (waiting > 0) {
    waiting--;
    const int32_t first = parts[2 * waiting], last = parts[2 * waiting + 1];
    if (last - first < 2) continue;
    float squared;
    const int32_t middle = simplify_farthest(points, count, first, last, &squared);
    if (!(squared > squared_tolerance)) continue;
    memory->keep[middle] = 1;
    parts[2 * waiting] = (int16_t)first, parts[2 * waiting + 1] = (int16_t)middle;
    parts[2 * waiting + 2] = (int16_t)middle, parts[2 * waiting + 3] = (int16_t)last;
    waiting += 2;
  }
}

/* An outline of fewer than three points encloses nothing: it keeps its first, the farthest from it, and of both halves
 * the farthest. */
static void simplify_keep_three(const float *points, int32_t count, uint8_t *keep) {
  int32_t kept = 0;
  for (int32_t i = 0; i < count; i++) kept += keep[i];
  if (kept >= 3) return;
  float of_middle, of_first = 0.0f, of_second = 0.0f;
  int32_t first = 0, second = 0;
  const int32_t middle = count < 2 ? 0 : simplify_farthest(points, count, 0, count, &of_middle);
  if (middle > 0 && of_middle > 0.0f) {
    keep[middle] = 1;
    if (middle > 1) first = simplify_farthest(points, count, 0, middle, &of_first);
    if (count - middle > 1) second = simplify_farthest(points, count, middle, count, &of_second);
    of_middle *= 1.0f - 0x1p-22f; /* what it led to matters less */
    of_first = raster_least(of_first, of_middle), of_second = raster_least(of_second, of_middle);
    if (of_first > 0.0f || of_second > 0.0f) keep[of_second > of_first ? second : first] = 1;
  }
  kept = 0;
  for (int32_t i = 0; i < count; i++) kept += keep[i];
  for (int32_t i = 0; i < count && kept < 3; i++) { /* points that are all in one place, or on one line */
    kept += !keep[i];
    keep[i] = 1;
  }
}

/* Leave out points of a sketch, in its own memory: `points` and `offsets` are changed. */
static void simplify(float *points, int32_t *offsets, const int32_t *filled, int32_t strokes, float tolerance,
                     const struct simplifier *memory) {
  const float squared_tolerance = tolerance * tolerance;
  int32_t first = 0, to = 0;
  for (int32_t stroke = 0; stroke < strokes; stroke++) {
    const int32_t next = offsets[stroke + 1], count = next - first;
    simplify_mark(points + 2 * first, count, filled[stroke] != 0, squared_tolerance, memory);
    if (filled[stroke] != 0) simplify_keep_three(points + 2 * first, count, memory->keep);
    for (int32_t i = 0; i < count; i++) {
      if (!memory->keep[i]) continue;
      points[2 * to] = points[2 * (first + i)], points[2 * to + 1] = points[2 * (first + i) + 1];
      to++;
    }
    offsets[stroke + 1] = to;
    first = next;
  }
}

#endif
