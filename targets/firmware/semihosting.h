/* Calls to the debugger or emulator that this core is attached to (Arm semihosting, document IHI 0103). */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { MODE_READ_BINARY = 1, MODE_WRITE_BINARY = 5 };
enum { STOPPED_APPLICATION_EXIT = 0x20026 };

static inline uint32_t semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static inline uint32_t host_open(const char *path, uint32_t length, uint32_t mode) {
    const uint32_t block[3] = {(uint32_t)(uintptr_t)path, mode, length};
    return semihosting(SYS_OPEN, block);
}

/* Bytes that were NOT transferred: 0 when all were, `bytes` at the end of the file. */
static inline uint32_t host_transfer(uint32_t operation, uint32_t handle, const void *data, uint32_t bytes) {
    const uint32_t block[3] = {handle, (uint32_t)(uintptr_t)data, bytes};
    return semihosting(operation, block);
}

static inline void host_print(const char *text) { semihosting(SYS_WRITE0, text); }

static inline void host_print_number(const char *before, uint32_t value) {
    char text[] = " 0x00000000";
    for (int i = 10; i > 2; i--, value >>= 4) text[i] = "0123456789abcdef"[value & 15];
    host_print(before);
    host_print(text);
}

static inline void host_exit(uint32_t code) {
    const uint32_t block[2] = {STOPPED_APPLICATION_EXIT, code};
    for (;;) semihosting(SYS_EXIT_EXTENDED, block);
}

#endif
