/* Part of student_model.c: a small network on numbers of the strokes and, of a gate, on how sure the first look was. */
#include "selector.h"

enum { FEATURES = SELECTOR_STROKES + (KIND == GATE ? SELECTOR_SURENESS : 0) };
static const float mean[FEATURES] = {$mean}, deviation[FEATURES] = {$std};

static int32_t choose(const struct found *found, float length) {
  float numbers[FEATURES];
  const struct sketch simple = simplified(${tolerance}f);
  int8_t *seen = ${selector}_input(0);
  if (KIND == GATE) {
    const int32_t count = found->count < NEAREST ? found->count : NEAREST;
    selector_sureness(scores, count, length, ${temperature}f, numbers);
  }
  selector_statistics(&simple, numbers + FEATURES - SELECTOR_STROKES);
  for (int32_t i = 0; i < FEATURES; i++) {
    const float z = raster_most(raster_least((numbers[i] - mean[i]) / deviation[i], ${limit}f), -${limit}f);
    seen[i] = quantised(z, ${input_scale}f, $input_zero_point);
  }
  ${selector}_run();
  return largest_of(${selector}_output(0));
}
