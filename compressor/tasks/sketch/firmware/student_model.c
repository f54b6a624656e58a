/* A whole query as a model: a sketch is drawn, encoded and looked for in the gallery. $title.
 * SPDX-License-Identifier: Apache-2.0 */
#include "encoder.c"
#include "index.h"
#include "raster.h"

$gallery

enum { POINTS = $points, STROKES = $strokes, SIZE = $size, K = $k };

static float points[2 * POINTS], widths[STROKES];
static int32_t offsets[STROKES + 1], filled[STROKES], strokes;
static float canvas[SIZE * SIZE], edge[SIZE * SIZE];
static int16_t winding[SIZE * (SIZE + 1)];
static int16_t wide[GALLERY_DEPTH] __attribute__((aligned(4)));
static int32_t rows[K];
static float scores[K];

/* The encoder's input: (ink - mean) / std, to the nearest step (ties to even) of its scale, and its zero point. */
static int8_t see(float ink) {
  const float limit = 1024.0f, magic = 12582912.0f; /* 3 * 2^22: its neighbours are whole numbers */
  float steps = (ink - ${mean}f) / ${std}f / ${input_scale}f;
  steps = raster_most(raster_least(steps, limit), -limit);
  const int32_t step = (int32_t)((steps + magic) - magic) + $input_zero_point;
  return (int8_t)(step < -128 ? -128 : step > 127 ? 127 : step);
}

void ${name}_run(void) {
  const struct sketch sketch = {points, offsets, widths, filled, strokes};
  const struct raster raster = {SIZE, canvas, edge, winding};
  struct found found = {rows, scores, K, 0};
  memset(canvas, 0, sizeof canvas);
  raster_draw(&sketch, ${minimum_width_px}f, &raster);
  const int8_t paper = see(0.0f);
  int8_t *seen = ${encoder}_input(0);
  for (int i = 0; i < SIZE * SIZE; i++) seen[i] = canvas[i] > 0.0f ? see(canvas[i]) : paper;
  ${encoder}_run();
  index_search(&gallery, ${encoder}_output(0), $output_zero_point, wide, &found);
}

void *${name}_input(int index) {
  void *const inputs[] = {points, offsets, widths, filled, &strokes};
  return index >= 0 && index < 5 ? inputs[index] : 0;
}

void *${name}_output(int index) {
  void *const outputs[] = {rows, scores};
  return index == 0 || index == 1 ? outputs[index] : 0;
}
