// SPDX-License-Identifier: GPL-2.0-or-later
/* QEMU TCG plugin: the exact number of instructions between entry and return of one function, per call; or of a whole
 * program, all its threads.
 *
 * Arguments: start=ADDRESS (the function's first instruction), stop=ADDRESS (the instruction that its caller goes on
 * with). Writes one decimal number per call into the file "counts" of the working directory. Without arguments: one
 * number each time that the program makes a system call, any, whose first argument is MARK, and one at its end.
 *
 * A translation block is a straight run of instructions: it is counted as a whole each time that it is executed. Both
 * addresses are targets of jumps and so begin a block. An instruction that an IT block skips was fetched and counts.
 *
 * The declarations below are the part of QEMU's plugin interface, version 1, that is used (docs/devel/tcg-plugins.rst),
 * so that QEMU's headers are not needed. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct block;
struct instruction;
enum { WITHOUT_REGISTERS = 0 };
#define MARK 0x434F554E /* "COUN" */

typedef void system_call(plugin_id id, unsigned cpu, int64_t number, uint64_t first, uint64_t a2, uint64_t a3,
                         uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);

size_t qemu_plugin_tb_n_insns(const struct block *block);
struct instruction *qemu_plugin_tb_get_insn(const struct block *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct instruction *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct block *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct block *block, void (*executed)(unsigned, void *), int flags, void *data);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, system_call *called);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *data);

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);

static uint64_t start_address, stop_address, count;
static int running;
static FILE *counts;

static void add(unsigned cpu, void *instructions) { count += (uintptr_t)instructions; }

/* Threads of a program in user mode are threads of QEMU. */
static void add_shared(unsigned cpu, void *instructions) {
    __atomic_add_fetch(&count, (uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void start(unsigned cpu, void *instructions) {
    if (!running) count = 0; /* a recursive call goes on counting */
    running = 1;
    count += (uintptr_t)instructions;
}

static void stop(unsigned cpu, void *instructions) {
    if (running) fprintf(counts, "%" PRIu64 "\n", count);
    running = 0;
}

static void translated(plugin_id id, struct block *block) {
    const uint64_t address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, 0));
    const size_t length = qemu_plugin_tb_n_insns(block);
    void (*executed)(unsigned, void *) = add_shared;
    if (start_address) executed = address == start_address ? start : address == stop_address ? stop : add;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, WITHOUT_REGISTERS, (void *)(uintptr_t)length);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t first, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    if (first == MARK) fprintf(counts, "%" PRIu64 "\n", count);
}

static void ended(plugin_id id, void *data) {
    if (!start_address) fprintf(counts, "%" PRIu64 "\n", count);
    fclose(counts);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "start=", 6)) start_address = strtoull(argv[i] + 6, NULL, 0);
        if (!strncmp(argv[i], "stop=", 5)) stop_address = strtoull(argv[i] + 5, NULL, 0);
    }
    counts = fopen("counts", "w");
    if (!start_address != !stop_address || !counts) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    if (!start_address) qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
