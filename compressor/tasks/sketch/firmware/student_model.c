/* A whole query as a model: a sketch is drawn, encoded and looked for in the gallery, on one canvas ("fixed", or chosen by
 * "statistics" or "gru" before anything is drawn), on one after the other while the answer leaves a doubt ("cascade"), or
 * on the smallest and perhaps on one more ("gate"). $title.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "networks.c"
#include "index.h"
#include "raster.h"

$gallery

enum { POINTS = $points, STROKES = $strokes, LARGEST = $largest_px, K = $k, NEAREST = $nearest };
enum { LAST, FIRST, ALL, COMBINE = $combine };  /* what is looked for after several looks */
enum { FIXED, STATISTICS, GRU, CASCADE, GATE, KIND = $kind };
enum { MARGIN, ENTROPY, MEASURE = $measure };   /* how sure a look is */

/* A canvas and its encoder: the scale and zero point of its input, the zero point of its output. */
struct look {
  int32_t size;
  float scale;
  int32_t zero_point, output_zero_point;
  void (*run)(void);
  void *(*input)(int index);
  void *(*output)(int index);
};

static const struct look looks[] = {
$looks
};
enum { LOOKS = (int)(sizeof looks / sizeof looks[0]) };
static const float thresholds[LOOKS] = {$thresholds}; /* the last is not used */

static float points[2 * POINTS], widths[STROKES];
static int32_t offsets[STROKES + 1], filled[STROKES], strokes;
static float canvas[LARGEST * LARGEST], edge[LARGEST * LARGEST];
static int16_t winding[LARGEST * (LARGEST + 1)];
static int16_t wide[GALLERY_DEPTH] __attribute__((aligned(4)));
static int32_t rows[K];
static float scores[K];
static float total[COMBINE == LAST ? 1 : GALLERY_DEPTH];
static int8_t asked[COMBINE == LAST ? 1 : GALLERY_DEPTH] __attribute__((aligned(4)));

/* To the nearest whole number, ties to even, within 1024 of 0. 3 * 2^22 has only whole numbers as neighbours. */
static int32_t nearest_whole(float value) {
  const float limited = raster_most(raster_least(value, 1024.0f), -1024.0f), magic = 12582912.0f;
  return (int32_t)((limited + magic) - magic);
}

static int8_t quantised(float value, float scale, int32_t zero_point) {
  const int32_t step = nearest_whole(value / scale) + zero_point;
  return (int8_t)(step < -128 ? -128 : step > 127 ? 127 : step);
}

/* An encoder's input: (ink - mean) / std in steps of its scale, and its zero point. */
static int8_t see(float ink, const struct look *look) {
  return quantised((ink - ${ink_mean}f) / ${ink_std}f, look->scale, look->zero_point);
}

static void encode(const struct look *look) {
  const struct sketch sketch = {points, offsets, widths, filled, strokes};
  const struct raster raster = {look->size, canvas, edge, winding};
  const int32_t pixels = look->size * look->size;
  memset(canvas, 0, (size_t)pixels * sizeof(float));
  raster_draw(&sketch, ${minimum_width_px}f, &raster);
  const int8_t paper = see(0.0f, look);
  int8_t *seen = look->input(0);
  for (int32_t i = 0; i < pixels; i++) seen[i] = canvas[i] > 0.0f ? see(canvas[i], look) : paper;
  look->run();
}

static float length_of(const int8_t *query, int32_t zero_point) {
  int32_t sum = 0;
  for (int32_t i = 0; i < GALLERY_DEPTH; i++) sum += (query[i] - zero_point) * (query[i] - zero_point);
  return raster_root((float)sum);
}

/* The sum of this look's unit vector and those before (of the first, or of all), as int8 over its own range. */
static void combine(const int8_t *embedding, int32_t zero_point, int32_t level) {
  const float inverse = 1.0f / raster_most(length_of(embedding, zero_point), 1e-12f);
  float largest = 1e-12f;
  for (int32_t pass = 0; pass < 2; pass++) {
    for (int32_t i = 0; i < GALLERY_DEPTH; i++) {
      const float own = (float)(embedding[i] - zero_point) * inverse;
      const float sum = level == 0 ? own : pass == 1 && COMBINE == ALL ? total[i] : total[i] + own;
      if (pass == 0) largest = raster_most(largest, raster_size(sum));
      if (pass == 1) asked[i] = (int8_t)nearest_whole(sum * (127.0f / largest));
      if (pass == 0 && (level == 0 || COMBINE == ALL)) total[i] = sum;
    }
  }
}

/* From the largest cosines, best first: the first less the second, or minus the entropy of the nearest. */
static float sureness(const struct found *found, float length) {
  const float inverse = 1.0f / raster_most(length, 1e-12f);
  if (MEASURE == MARGIN) return (scores[0] - scores[found->count > 1 ? 1 : 0]) * inverse;
  float weights = 0.0f, weighted = 0.0f;
  for (int32_t i = 0; i < NEAREST && i < found->count; i++) {
    const float logit = (scores[i] - scores[0]) * inverse * (1.0f / ${temperature}f);
    const float weight = expf(logit);
    weights += weight, weighted += weight * logit;
  }
  return weighted / weights - logf(weights);
}

$choosing

void ${name}_run(void) {
  int32_t level = KIND == STATISTICS || KIND == GRU ? choose(0, 0.0f) : 0;
  for (int32_t first = 1;; first = 0) {
    const struct look *look = &looks[level];
    struct found found = {rows, scores, K, 0};
    encode(look);
    const int8_t *query = look->output(0);
    int32_t zero_point = look->output_zero_point;
    if (COMBINE != LAST && LOOKS > 1) {  /* level 0 is the first look wherever looks are combined */
      combine(query, zero_point, level);
      if (level > 0) query = asked, zero_point = 0;
    }
    index_search(&gallery, query, zero_point, wide, &found);
    if (KIND == CASCADE) {
      if (level + 1 == LOOKS || sureness(&found, length_of(query, zero_point)) >= thresholds[level]) return;
      level++;
    } else {
      level = KIND == GATE && first ? choose(&found, length_of(query, zero_point)) : 0;
      if (level == 0) return;
    }
  }
}

void *${name}_input(int index) {
  void *const inputs[] = {points, offsets, widths, filled, &strokes};
  return index >= 0 && index < 5 ? inputs[index] : 0;
}

void *${name}_output(int index) {
  void *const outputs[] = {rows, scores};
  return index == 0 || index == 1 ? outputs[index] : 0;
}
