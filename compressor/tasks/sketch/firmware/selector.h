/* What a canvas selector reads (compressor/tasks/sketch/selector/features.py) in C99: numbers of the strokes, how sure a
 * look was, and the drawing as five-tuples. float32 where Python has float64, so the last digits differ: a selector's
 * network reads them in int8 steps. SPDX-License-Identifier: Apache-2.0 */
#ifndef SKETCH_SELECTOR_H
#define SKETCH_SELECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "raster.h"
#include "simplify.h"

enum { SELECTOR_STROKES = 12, SELECTOR_SURENESS = 5, SELECTOR_POINT = 5 };

static const float selector_pi = 3.14159265358979f;

/* Absolute angle between two headings, in radians. */
static inline float selector_turn(float before, float after) {
  float turn = raster_size(after - before);
  return turn > selector_pi ? 2.0f * selector_pi - turn : turn;
}

/* The twelve numbers of a simplified sketch, as `stroke_statistics` gives them. */
static inline void selector_statistics(const struct sketch *sketch, float *numbers) {
  const float *points = sketch->points;
  const int32_t strokes = sketch->strokes, count = strokes > 0 ? sketch->offsets[strokes] : 0;
  float length = 0.0f, ink = 0.0f, area = 0.0f, widths = 0.0f, turning = 0.0f;
  float low_x = 0.0f, high_x = 0.0f, low_y = 0.0f, high_y = 0.0f;
  int32_t steps = 0, turns = 0, closed = 0, filled = 0;
  memset(numbers, 0, SELECTOR_STROKES * sizeof(float));
  if (count == 0) return;
  for (int32_t i = 0; i < count; i++) {
    const float x = points[2 * i], y = points[2 * i + 1];
    low_x = i ? raster_least(low_x, x) : x, high_x = i ? raster_most(high_x, x) : x;
    low_y = i ? raster_least(low_y, y) : y, high_y = i ? raster_most(high_y, y) : y;
  }
  for (int32_t stroke = 0; stroke < strokes; stroke++) {
    const int32_t first = sketch->offsets[stroke], own = sketch->offsets[stroke + 1] - first;
    const int outline = sketch->filled[stroke] != 0;
    const int32_t edges = outline ? own : own - 1; /* an outline returns to its first point */
    float own_length = 0.0f, before = 0.0f;
    int headed = 0;
    for (int32_t i = 0; i < edges; i++) {
      const float *from = points + 2 * (first + i), *to = points + 2 * (first + (i + 1) % own);
      const float dx = to[0] - from[0], dy = to[1] - from[1], size = raster_root(dx * dx + dy * dy);
      own_length += size;
      if (outline) area += 0.5f * (from[0] * to[1] - from[1] * to[0]);
      if (!(size > 0.0f)) continue;
      const float heading = atan2f(dy, dx);
      if (headed) turning += selector_turn(before, heading), turns++;
      before = heading, headed = 1;
    }
    steps += edges, length += own_length;
    if (outline) {
      filled++, closed++;
    } else {
      const float *start = points + 2 * first, *end = points + 2 * (first + own - 1);
      const float dx = end[0] - start[0], dy = end[1] - start[1];
      closed += own > 2 && raster_root(dx * dx + dy * dy) < 0.02f;
      ink += own_length * sketch->widths[stroke], widths += sketch->widths[stroke];
    }
  }
  numbers[0] = logf(1.0f + (float)strokes), numbers[1] = logf(1.0f + (float)count), numbers[2] = logf(1.0f + length);
  numbers[3] = ink + raster_size(area), numbers[4] = high_x - low_x, numbers[5] = high_y - low_y;
  numbers[6] = turns ? turning / (float)turns / selector_pi : 0.0f;
  numbers[7] = (float)closed / (float)strokes, numbers[8] = (float)filled / (float)strokes;
  numbers[9] = filled < strokes ? widths / (float)(strokes - filled) : 0.0f;
  numbers[10] = steps ? logf(length / (float)steps + 0.01f) : 0.0f;
  numbers[11] = logf(1.0f + length / raster_most(numbers[4] * numbers[5], 0.01f));
}

/* How sure a look was, from the largest cosines times `length`, best first: as `sureness` gives it. */
static inline void selector_sureness(const float *scores, int32_t count, float length, float temperature,
                                     float *numbers) {
  const float inverse = 1.0f / raster_most(length, 1e-12f);
  const int32_t ranks[] = {1, 4, 9};
  float weights = 0.0f, weighted = 0.0f;
  numbers[0] = scores[0] * inverse;
  for (int32_t i = 0; i < 3; i++) {
    numbers[1 + i] = (scores[0] - scores[ranks[i] < count ? ranks[i] : count - 1]) * inverse;
  }
  for (int32_t i = 0; i < count; i++) {
    const float logit = (scores[i] - scores[0]) * inverse / temperature, weight = expf(logit);
    weights += weight, weighted += weight * logit;
  }
  numbers[4] = logf(weights) - weighted / weights;
}

/* Of each point of a stroke, the largest squared tolerance at which it stays; its ends: beyond every number. An outline
 * has its first point once more at its end. `squared` has room for count + 1, parts for 2 * count + 2. */
static inline void selector_significance(const float *points, int32_t count, int closed, float *squared,
                                         int16_t *parts) {
  const int32_t end = closed ? count : count - 1;
  int32_t waiting = 1;
  memset(squared, 0, ((size_t)count + 1) * sizeof(float));
  squared[0] = squared[end] = INFINITY;
  parts[0] = 0, parts[1] = (int16_t)end;
  while (waiting > 0) {
    waiting--;
    const int32_t first = parts[2 * waiting], last = parts[2 * waiting + 1];
    if (last - first < 2) continue;
    float farthest;
    const int32_t middle = simplify_farthest(points, count, first, last, &farthest);
    if (!(farthest > 0.0f)) continue;
    const float above = raster_least(squared[first], squared[last]) * (1.0f - 0x1p-22f);
    squared[middle] = raster_least(farthest, above);
    parts[2 * waiting] = (int16_t)first, parts[2 * waiting + 1] = (int16_t)middle;
    parts[2 * waiting + 2] = (int16_t)middle, parts[2 * waiting + 3] = (int16_t)last;
    waiting += 2;
  }
}

/* At most `most` points of a sketch remain, in its own memory: those that simplification would leave out last, as
 * `simplify_to` chooses them. Strokes without points stay, empty. `squared`: room for a float per point and one more. */
static inline void selector_simplify_to(float *points, int32_t *offsets, const int32_t *filled, int32_t strokes,
                                        int32_t most, float *squared, const struct simplifier *memory) {
  const int32_t count = offsets[strokes];
  if (count <= most) return;
  for (int32_t stroke = 0; stroke < strokes; stroke++) {
    const int32_t first = offsets[stroke], own = offsets[stroke + 1] - first;
    float *significance = squared + first, length = 0.0f;
    const float *start = points + 2 * first;
    /* an outline's second end has the place of the next stroke's first point, which comes after it */
    selector_significance(start, own, filled[stroke] != 0, significance, memory->parts);
    for (int32_t i = 1; i < own; i++) {
      const float dx = start[2 * i] - start[2 * i - 2], dy = start[2 * i + 1] - start[2 * i - 1];
      length += raster_root(dx * dx + dy * dy);
    }
    /* of more strokes than points only the longest stay, the first of equal ones */
    int32_t longer = 0;
    for (int32_t other = 0; other < strokes; other++) {
      float others = 0.0f;
      for (int32_t i = offsets[other] + 1; i < offsets[other + 1]; i++) {
        const float dx = points[2 * i] - points[2 * i - 2], dy = points[2 * i + 1] - points[2 * i - 1];
        others += raster_root(dx * dx + dy * dy);
      }
      longer += others > length || (others == length && other < stroke);
    }
    if (longer >= most) {
      for (int32_t i = 0; i < own; i++) significance[i] = -1.0f;
    } else if (own > 1 && filled[stroke] == 0) { /* the last point matters as much as the stroke is wide */
      float widest = 0.0f;
      for (int32_t i = 0; i < own; i++) {
        const float dx = start[2 * i] - start[0], dy = start[2 * i + 1] - start[1];
        widest = raster_most(widest, dx * dx + dy * dy);
      }
      significance[own - 1] = widest;
    }
  }
  memset(memory->keep, 0, (size_t)count);
  for (int32_t chosen = 0; chosen < most; chosen++) {
    int32_t best = -1;
    for (int32_t i = 0; i < count; i++) {
      if (!memory->keep[i] && squared[i] >= 0.0f && (best < 0 || squared[i] > squared[best])) best = i;
    }
    if (best < 0) break;
    memory->keep[best] = 1;
  }
  int32_t from = 0, to = 0;
  for (int32_t stroke = 0; stroke < strokes; stroke++) {
    const int32_t next = offsets[stroke + 1];
    for (; from < next; from++) {
      if (!memory->keep[from]) continue;
      points[2 * to] = points[2 * from], points[2 * to + 1] = points[2 * from + 1];
      to++;
    }
    offsets[stroke + 1] = to;
  }
}

/* Point `index` of a sketch as `five_tuples` has it; `last`: whether its stroke ends with it. */
static inline void selector_tuple(const float *points, int32_t index, int last, float *tuple) {
  tuple[0] = index ? points[2 * index] - points[2 * index - 2] : points[0];
  tuple[1] = index ? points[2 * index + 1] - points[2 * index - 1] : points[1];
  tuple[2] = last ? 0.0f : 1.0f, tuple[3] = last ? 1.0f : 0.0f, tuple[4] = 0.0f;
}

#endif
