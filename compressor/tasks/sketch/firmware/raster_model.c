/* Simplification (where the tolerance is not negative) and rasteriser as a model: inputs are a sketch's arrays, the output
 * is its canvas. $title.
 * SPDX-License-Identifier: Apache-2.0 */
#include "raster.h"
#include "simplify.h"

enum { POINTS = $points, STROKES = $strokes, SIZE = $size };

static float points[2 * POINTS], widths[STROKES];
static int32_t offsets[STROKES + 1], filled[STROKES], strokes;
static float canvas[SIZE * SIZE], edge[SIZE * SIZE];
static int16_t winding[SIZE * (SIZE + 1)];
static uint8_t keep[POINTS + 1];
static int16_t parts[2 * POINTS + 2];

void ${name}_run(void) {
  const struct sketch sketch = {points, offsets, widths, filled, strokes};
  const struct raster raster = {SIZE, canvas, edge, winding};
  const struct simplifier simplifier = {keep, parts};
  const float tolerance = ${tolerance}f; /* of the canvas */
  if (tolerance >= 0.0f) simplify(points, offsets, filled, strokes, tolerance, &simplifier);
  memset(canvas, 0, sizeof canvas);
  raster_draw(&sketch, ${minimum_width_px}f, &raster);
}

void *${name}_input(int index) {
  void *const inputs[] = {points, offsets, widths, filled, &strokes};
  return index >= 0 && index < 5 ? inputs[index] : 0;
}

void *${name}_output(int index) { return index == 0 ? canvas : 0; }
