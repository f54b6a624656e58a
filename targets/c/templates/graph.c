/* ---- $name: $operators operators, $macs multiply-accumulates, $constant_bytes bytes of constants ---- */

static union {
  int64_t alignment;
  int8_t bytes[$arena_size];
} ${name}_arena;

$constants
void ${name}_run(void) {
$pointers
$statements
}

void *${name}_input(int index) {
  switch (index) {
$inputs
  default: return 0;
  }
}

void *${name}_output(int index) {
  switch (index) {
$outputs
  default: return 0;
  }
}
