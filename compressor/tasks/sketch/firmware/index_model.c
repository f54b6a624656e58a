/* The index alone, as a model: the input is an encoder's int8 output, the outputs are rows and scores. $title.
 * SPDX-License-Identifier: Apache-2.0 */
#include "index.h"

$gallery

enum { K = $k };

static int8_t query[GALLERY_DEPTH] __attribute__((aligned(4)));
static int16_t wide[GALLERY_DEPTH] __attribute__((aligned(4)));
static int32_t rows[K];
static float scores[K];

void ${name}_run(void) {
  struct found found = {rows, scores, K, 0};
  index_search(&gallery, query, $zero_point, wide, &found);
}

void *${name}_input(int index) { return index == 0 ? query : 0; }

void *${name}_output(int index) {
  void *const outputs[] = {rows, scores};
  return index == 0 || index == 1 ? outputs[index] : 0;
}
