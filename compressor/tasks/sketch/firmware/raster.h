/* The sketch task's rasteriser (compressor/tasks/sketch/raster.py) in C99: the same float32 operations in the same order,
 * so the same bits, with and without a floating point unit.
 *
 * Needs IEEE 754 float arithmetic that is not fused and not wider: gcc -std=c99 (or -ffp-contract=off), no -ffast-math,
 * no x87. No malloc; of the C library it needs memset, and sqrtf where the core has no square root.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef SKETCH_RASTER_H
#define SKETCH_RASTER_H

#include <stdint.h>
#include <string.h>

/* Strokes in the unit square, x to the right and y down: the arrays of compressor.data.sketch.Sketch. */
struct sketch {
  const float *points;    /* x, y of each point, stroke after stroke */
  const int32_t *offsets; /* strokes + 1: stroke s has the points offsets[s] to offsets[s + 1] - 1, at least one */
  const float *widths;    /* of the canvas's side; 0 for filled outlines */
  const int32_t *filled;  /* 0: a line; k > 0: an outline of the filled shape k, closed implicitly */
  int32_t strokes;
};

/* Ink 1 on 0, row 0 at the top; and memory for filled shapes, not needed (0) by sketches of lines. */
struct raster {
  int32_t size;
  float *canvas;    /* size * size */
  float *edge;      /* size * size */
  int16_t *winding; /* size * (size + 1) */
};

/* A segment wider than this many pixels that climbs at least one is drawn row by row near the line, not in its box. */
enum { RASTER_WIDE_PX = 4 };

#if defined(__ARM_FP)
static inline float raster_root(float value) {
  float root;
  __asm("vsqrt.f32 %0, %1" : "=t"(root) : "t"(value));
  return root;
}
#else
#include <math.h>
static inline float raster_root(float value) { return sqrtf(value); }
#endif

static inline float raster_least(float a, float b) { return a < b ? a : b; }
static inline float raster_most(float a, float b) { return a > b ? a : b; }
static inline float raster_size(float value) { return value < 0.0f ? -value : value; }

/* The largest whole number that is at most `value`, on the canvas; 0 for what is not a number. */
static inline int32_t raster_end(float value, float side) {
  return value > 0.0f ? (int32_t)raster_least(value, side) : 0;
}

/* The smallest whole number that is at least `value`, on the canvas. */
static inline int32_t raster_first(float value, float side) {
  const float clipped = value > 0.0f ? raster_least(value, side) : 0.0f;
  const int32_t whole = (int32_t)clipped;
  return (float)whole < clipped ? whole + 1 : whole;
}

/* Into `canvas`, the largest of what is there and clip(reach - distance to the segment, 0, 1). */
static void raster_line(float x0, float y0, float x1, float y1, float reach, int32_t size, float *canvas) {
  const float side = (float)size, bounds = reach + 0.5f;
  const int32_t left = raster_first(raster_least(x0, x1) - bounds, side);
  const int32_t right = raster_end(raster_most(x0, x1) + bounds, side);
  const int32_t top = raster_first(raster_least(y0, y1) - bounds, side);
  const int32_t bottom = raster_end(raster_most(y0, y1) + bounds, side);
  if (left >= right || top >= bottom) return;
  const float dx = x1 - x0, dy = y1 - y0;
  const float squared = dx * dx + dy * dy;
  const float inverse = squared > 0.0f ? 1.0f / raster_root(squared) : 1.0f;
  const int slanted = right - left > RASTER_WIDE_PX && raster_size(dy) >= 1.0f;
  const float slope = slanted ? dx / dy : 0.0f;
  const float margin = slanted ? reach * raster_root(slope * slope + 1.0f) + 0.5f : 0.0f;
  int32_t first = left, end = right;
  for (int32_t row = top; row < bottom; row++) {
    const float centre_y = (float)row + 0.5f;
    const float py = centre_y - y0, qy = centre_y - y1;
    if (slanted) {
      const float on_line = x0 + py * slope;
      const int32_t near_first = raster_first(on_line - margin, side), near_end = raster_end(on_line + margin, side);
      first = near_first > left ? near_first : left;
      end = near_end < right ? near_end : right;
    }
    const float along_y = py * dy, across_y = py * dx, py2 = py * py, qy2 = qy * qy;
    float centre_x = (float)first + 0.5f;
    float *pixel = canvas + row * size + first;
    for (float *const stop = canvas + row * size + end; pixel < stop; pixel++, centre_x += 1.0f) {
      const float px = centre_x - x0;
      const float along = px * dx + along_y;
      float distance;
      if (along <= 0.0f) {
        distance = raster_root(px * px + py2);
      } else if (along >= squared) {
        const float qx = centre_x - x1;
        distance = raster_root(qx * qx + qy2);
      } else {
        distance = raster_size(px * dy - across_y) * inverse;
      }
      const float coverage = raster_least(reach - distance, 1.0f);
      if (coverage > *pixel) *pixel = coverage;
    }
  }
}

/* Count an edge where it crosses the rows' centres: at the first pixel whose centre is beyond. */
static void raster_wind(float x0, float y0, float x1, float y1, int32_t size, int16_t *winding) {
  const float side = (float)size;
  const int32_t top = raster_first(raster_least(y0, y1) - 0.5f, side);
  const int32_t bottom = raster_first(raster_most(y0, y1) - 0.5f, side);
  if (top >= bottom) return;
  const float slope = (x1 - x0) / (y1 - y0);
  const int16_t turn = y1 > y0 ? 1 : -1;
  for (int32_t row = top; row < bottom; row++) {
    const float crossing = x0 + (((float)row + 0.5f) - y0) * slope;
    int16_t *at = winding + row * (size + 1) + raster_end(crossing + 0.5f, side);
    *at = (int16_t)(*at + turn);
  }
}

/* The filled shape `shape`: 1/2 - signed distance, by the non-zero winding rule. */
static void raster_fill(const struct sketch *sketch, int32_t shape, const struct raster *raster) {
  const int32_t size = raster->size;
  const float side = (float)size;
  float low_x = side, high_x = 0.0f, low_y = side, high_y = 0.0f;
  for (int32_t stroke = 0; stroke < sketch->strokes; stroke++) {
    if (sketch->filled[stroke] != shape) continue;
    for (int32_t i = sketch->offsets[stroke]; i < sketch->offsets[stroke + 1]; i++) {
      const float x = sketch->points[2 * i] * side, y = sketch->points[2 * i + 1] * side;
      low_x = raster_least(low_x, x), high_x = raster_most(high_x, x);
      low_y = raster_least(low_y, y), high_y = raster_most(high_y, y);
    }
  }
  const int32_t left = raster_first(low_x - 1.0f, side), right = raster_end(high_x + 1.0f, side);
  const int32_t top = raster_first(low_y - 1.0f, side), bottom = raster_end(high_y + 1.0f, side);
  if (left >= right || top >= bottom) return;
  for (int32_t row = top; row < bottom; row++) {
    memset(raster->edge + row * size + left, 0, (size_t)(right - left) * sizeof(float));
    memset(raster->winding + row * (size + 1) + left, 0, (size_t)(right - left + 1) * sizeof(int16_t));
  }
  for (int32_t stroke = 0; stroke < sketch->strokes; stroke++) {
    if (sketch->filled[stroke] != shape) continue;
    const int32_t last = sketch->offsets[stroke + 1] - 1;
    float x0 = sketch->points[2 * last] * side, y0 = sketch->points[2 * last + 1] * side;
    for (int32_t i = sketch->offsets[stroke]; i <= last; i++) {
      const float x1 = sketch->points[2 * i] * side, y1 = sketch->points[2 * i + 1] * side;
      raster_line(x0, y0, x1, y1, 0.5f, size, raster->edge);
      raster_wind(x0, y0, x1, y1, size, raster->winding);
      x0 = x1, y0 = y1;
    }
  }
  for (int32_t row = top; row < bottom; row++) {
    const float *edge = raster->edge + row * size;
    const int16_t *winding = raster->winding + row * (size + 1);
    float *pixel = raster->canvas + row * size;
    int32_t number = 0;
    for (int32_t column = left; column < right; column++) {
      number += winding[column];
      const float coverage = number ? 1.0f - edge[column] : edge[column];
      if (coverage > pixel[column]) pixel[column] = coverage;
    }
  }
}

/* Draw on top of what is on the canvas (zeros, or ink to keep). */
static void raster_draw(const struct sketch *sketch, float minimum_width_px, const struct raster *raster) {
  const float side = (float)raster->size;
  int32_t shapes = 0;
  for (int32_t stroke = 0; stroke < sketch->strokes; stroke++) {
    if (sketch->filled[stroke] != 0) {
      if (sketch->filled[stroke] > shapes) shapes = sketch->filled[stroke];
      continue;
    }
    const float reach = raster_most(sketch->widths[stroke] * side, minimum_width_px) * 0.5f + 0.5f;
    const int32_t first = sketch->offsets[stroke], end = sketch->offsets[stroke + 1];
    float x0 = sketch->points[2 * first] * side, y0 = sketch->points[2 * first + 1] * side;
    if (end - first == 1) raster_line(x0, y0, x0, y0, reach, raster->size, raster->canvas);
    for (int32_t i = first + 1; i < end; i++) {
      const float x1 = sketch->points[2 * i] * side, y1 = sketch->points[2 * i + 1] * side;
      raster_line(x0, y0, x1, y1, reach, raster->size, raster->canvas);
      x0 = x1, y0 = y1;
    }
  }
  for (int32_t shape = 1; shape <= shapes; shape++) raster_fill(sketch, shape, raster);
}

#endif
