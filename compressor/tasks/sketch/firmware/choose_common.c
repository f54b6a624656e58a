/* Part of student_model.c: the drawing simplified in memory of its own, and which of the selector's logits is largest. */
#include "simplify.h"

static float simple_points[2 * POINTS];
static int32_t simple_offsets[STROKES + 1];
static uint8_t keep[POINTS + 1];
static int16_t parts[2 * POINTS + 2];
static const struct simplifier simplifier = {keep, parts};

static struct sketch simplified(float tolerance) {
  const struct sketch simple = {simple_points, simple_offsets, widths, filled, strokes};
  memcpy(simple_points, points, sizeof points);
  memcpy(simple_offsets, offsets, sizeof offsets);
  simplify(simple_points, simple_offsets, filled, strokes, tolerance, &simplifier);
  return simple;
}

/* Logits share a scale, so their int8 steps have their order; of equal ones the first. */
static int32_t largest_of(const int8_t *logits) {
  int32_t best = 0;
  for (int32_t i = 1; i < LOOKS; i++) {
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

