/* One inference: $title. Replace the zeros by real inputs. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

int main(void) {
$fill
  ${name}_run();
  const $output_type *output = ${name}_output(0);
  for (int i = 0; i < (int)(${guard}_OUTPUT_0_BYTES / sizeof *output); i++) {
    printf("%d\n", (int)output[i]);
  }
  return 0;
}
