/* A generated model as a program for Linux and Android: the same protocol as the firmware's.
 *
 *   program            reads every input of the model from standard input, runs it, writes every output; until the end
 *   program time N     reads one row, runs it N times, writes N nanoseconds (uint64)
 *
 * At the end it says on standard error how much stack the model has touched, and the peak of resident memory.
 *
 * Defined by the builder: MODEL_RUN, MODEL_INPUT, MODEL_OUTPUT (the model's functions), and INPUT_BYTES and
 * OUTPUT_BYTES, the sizes of inputs and outputs in order. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define PAINT 0xC5
#define STACK_BYTES (256 * 1024)
#define MARGIN_BYTES 512 /* the frames of paint and of touched, which have no calls in them */
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

extern void MODEL_RUN(void);
extern void *MODEL_INPUT(int index);
extern void *MODEL_OUTPUT(int index);

static const size_t input_bytes[] = {INPUT_BYTES};
static const size_t output_bytes[] = {OUTPUT_BYTES};

/* The plugin that counts knows the model's first instruction, and model_returned as where its caller goes on. */
__attribute__((noinline, noclone)) static void call_model(void (*run)(void)) {
#if defined(__aarch64__)
    __asm volatile("blr %0\n.global model_returned\nmodel_returned:\n" ::"r"(run)
                   : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
                     "x15", "x16", "x17", "x18", "x30", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9",
                     "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23",
                     "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31", "memory", "cc");
#elif defined(__arm__)
    __asm volatile("blx %0\n.global model_returned\nmodel_returned:\n" ::"r"(run)
                   : "r0", "r1", "r2", "r3", "r12", "lr", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d16", "d17",
                     "d18", "d19", "d20", "d21", "d22", "d23", "d24", "d25", "d26", "d27", "d28", "d29", "d30", "d31",
                     "memory", "cc");
#else
    run();
#endif
}

/* The stack below the caller's frame, where the model's frames will be. */
__attribute__((noinline)) static void paint(volatile unsigned char *top) {
    for (int i = MARGIN_BYTES; i < STACK_BYTES; i++) top[-i] = PAINT;
}

__attribute__((noinline)) static int touched(volatile unsigned char *top) {
    int depth = STACK_BYTES - 1;
    while (depth > MARGIN_BYTES && top[-depth] == PAINT) depth--;
    return depth;
}

static int run_measured(void) {
    volatile unsigned char *top = __builtin_frame_address(0);
    paint(top);
    call_model(MODEL_RUN);
    return touched(top);
}

static int read_row(void) {
    for (int i = 0; i < COUNT(input_bytes); i++) {
        const size_t got = fread(MODEL_INPUT(i), 1, input_bytes[i], stdin);
        if (got == input_bytes[i]) continue;
        if (got == 0 && i == 0) return 0;
        fprintf(stderr, "program: the row ends after %zu bytes of input %d\n", got, i);
        exit(2);
    }
    return 1;
}

static void write_all(const void *from, size_t count) {
    if (fwrite(from, 1, count, stdout) != count) {
        fprintf(stderr, "program: nobody takes the answer\n");
        exit(3);
    }
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A run may overwrite its inputs: they are put back before each, outside of the time. */
static int time_row(long runs) {
    void *kept[COUNT(input_bytes)];
    if (!read_row()) return 2;
    for (int i = 0; i < COUNT(input_bytes); i++) {
        kept[i] = malloc(input_bytes[i]);
        if (!kept[i]) return 4;
        memcpy(kept[i], MODEL_INPUT(i), input_bytes[i]);
    }
    for (long run = 0; run < runs; run++) {
        for (int i = 0; i < COUNT(input_bytes); i++) memcpy(MODEL_INPUT(i), kept[i], input_bytes[i]);
        const uint64_t start = now_ns();
        call_model(MODEL_RUN);
        const uint64_t taken = now_ns() - start;
        write_all(&taken, sizeof taken);
    }
    return fflush(stdout) ? 3 : 0;
}

int main(int argc, char **argv) {
    struct rusage usage;
    int stack = 0;
    if (argc == 3 && !strcmp(argv[1], "time")) return time_row(atol(argv[2]));
    if (argc != 1) {
        fprintf(stderr, "usage: program [time RUNS]\n");
        return 2;
    }
    while (read_row()) {
        const int depth = run_measured();
        if (depth > stack) stack = depth;
        for (int i = 0; i < COUNT(output_bytes); i++) write_all(MODEL_OUTPUT(i), output_bytes[i]);
        if (fflush(stdout)) return 3;
    }
    getrusage(RUSAGE_SELF, &usage);
    fprintf(stderr, "program: stack %d peak_kb %ld\n", stack, usage.ru_maxrss);
    return 0;
}
