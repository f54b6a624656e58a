/* One inference: net, 8 operators. Replace the zeros by real inputs. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

int main(void) {
  memset(net_input(0), 0, NET_INPUT_0_BYTES);
  net_run();
  const int8_t *output = net_output(0);
  for (int i = 0; i < (int)(NET_OUTPUT_0_BYTES / sizeof *output); i++) {
    printf("%d\n", (int)output[i]);
  }
  return 0;
}
