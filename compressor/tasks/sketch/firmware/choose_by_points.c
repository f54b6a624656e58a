/* Part of student_model.c: a recurrent network over the simplified drawing's points, one step per point. */
#include "selector.h"

enum { READ = $read, HIDDEN = $hidden };
static float squared[POINTS + 1];

static int32_t choose(const struct found *found, float length) {
  struct sketch simple = simplified(${tolerance}f);
  float state[HIDDEN] = {0}, tuple[SELECTOR_POINT];
  int32_t stroke = 0;
  (void)found, (void)length;
  selector_simplify_to(simple_points, simple_offsets, filled, strokes, READ, squared, &simplifier);
  const int32_t count = strokes > 0 ? simple_offsets[strokes] : 0;
  for (int32_t i = 0; i < (count > 0 ? count : 1); i++) {
    while (stroke < strokes && simple_offsets[stroke + 1] <= i) stroke++;
    if (count > 0) {
      selector_tuple(simple.points, i, simple_offsets[stroke + 1] == i + 1, tuple);
    } else { /* an empty drawing: its end */
      memset(tuple, 0, sizeof tuple), tuple[4] = 1.0f;
    }
    int8_t *point_in = ${selector}_input($point_index), *state_in = ${selector}_input($state_index);
    for (int32_t k = 0; k < SELECTOR_POINT; k++) point_in[k] = quantised(tuple[k], ${point_scale}f, $point_zero_point);
    for (int32_t k = 0; k < HIDDEN; k++) state_in[k] = quantised(state[k], ${state_scale}f, $state_zero_point);
    ${selector}_run();
    const int8_t *next = ${selector}_output($next_index);
    for (int32_t k = 0; k < HIDDEN; k++) state[k] = (float)(next[k] - ($next_zero_point)) * ${next_scale}f;
  }
  return largest_of(${selector}_output($logits_index));
}
