/* Answers rows until there are no more: reads every input of the model from the host's standard input, runs the model,
 * writes every output to its standard output. At the end it says how much of its stack the model has touched.
 *
 * Defined by the builder: MODEL_RUN, MODEL_INPUT, MODEL_OUTPUT (the model's functions), and INPUT_BYTES and
 * OUTPUT_BYTES, the sizes of inputs and outputs in order. */
#include <stdint.h>

#include "semihosting.h"

#define PAINT 0xC5C5C5C5u
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

extern void MODEL_RUN(void);
extern void *MODEL_INPUT(int index);
extern void *MODEL_OUTPUT(int index);

extern uint32_t model_stack_limit, model_stack_top;

static const uint32_t input_bytes[] = {INPUT_BYTES};
static const uint32_t output_bytes[] = {OUTPUT_BYTES};

/* Call the model on its own stack. The counter counts from the model's first instruction to the label model_returned. */
__attribute__((naked, noinline)) static void call_on_model_stack(void (*function)(void), uint32_t *top) {
    (void)function, (void)top;
    __asm volatile(
        "push {r4, lr}\n"
        "msr psp, r1\n"
        "mrs r2, control\n"
        "orr r2, r2, #2\n"
        "msr control, r2\n"
        "isb\n"
        "blx r0\n"
        ".global model_returned\n"
        "model_returned:\n"
        "mrs r2, control\n"
        "bic r2, r2, #2\n"
        "msr control, r2\n"
        "isb\n"
        "pop {r4, pc}\n");
}

static void paint_stack(void) {
    for (uint32_t *word = &model_stack_limit; word < &model_stack_top; word++) *word = PAINT;
}

/* Bytes from the lowest word that was written to the top. Words that were reserved but never written do not count. */
static uint32_t touched_stack(void) {
    const uint32_t *word = &model_stack_limit;
    while (word < &model_stack_top && *word == PAINT) word++;
    return (uint32_t)((const char *)&model_stack_top - (const char *)word);
}

static int read_row(uint32_t requests) {
    for (int i = 0; i < COUNT(input_bytes); i++) {
        char *to = MODEL_INPUT(i);
        for (uint32_t left = input_bytes[i]; left > 0;) {
            const uint32_t missing = host_transfer(SYS_READ, requests, to, left);
            if (missing == left) return 0;
            to += left - missing, left = missing;
        }
    }
    return 1;
}

static void write_row(uint32_t replies) {
    for (int i = 0; i < COUNT(output_bytes); i++) {
        const char *from = MODEL_OUTPUT(i);
        for (uint32_t left = output_bytes[i]; left > 0;) {
            const uint32_t missing = host_transfer(SYS_WRITE, replies, from, left);
            if (missing == left) host_exit(2); /* nobody listens any more */
            from += left - missing, left = missing;
        }
    }
}

int main(void) {
    static const char in[] = "/dev/stdin", out[] = "/dev/stdout";
    const uint32_t requests = host_open(in, sizeof in - 1, MODE_READ_BINARY);
    const uint32_t replies = host_open(out, sizeof out - 1, MODE_WRITE_BINARY);
    if (requests == 0xFFFFFFFFu || replies == 0xFFFFFFFFu) {
        host_print("\nfirmware: cannot open the host's standard streams\n");
        return 3;
    }
    paint_stack();
    while (read_row(requests)) {
        call_on_model_stack(MODEL_RUN, &model_stack_top);
        write_row(replies);
    }
    host_print_number("\nfirmware: stack", touched_stack());
    host_print("\n");
    return 0;
}
