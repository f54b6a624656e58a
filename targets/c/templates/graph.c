/* ---- $name: $operators operators, $macs multiply-accumulates, $constant_bytes bytes of constants ---- */

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
