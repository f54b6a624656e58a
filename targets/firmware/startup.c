/* From reset to main, and what happens when the core faults.
 *
 * Two stacks (link.ld.in): the harness and the fault handlers use the main stack, the model the process stack. So the
 * model's use can be painted and measured alone, and a handler still has a stack when the model has none left. */
#include <stdint.h>

#include "semihosting.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define CCR REGISTER(0xE000ED14)   /* configuration and control */
#define SHCSR REGISTER(0xE000ED24) /* which faults have a handler of their own */
#define CFSR REGISTER(0xE000ED28)  /* why it faulted */
#define MMFAR REGISTER(0xE000ED34)
#define BFAR REGISTER(0xE000ED38)
#define CPACR REGISTER(0xE000ED88) /* access to coprocessors */
#define MPU_CTRL REGISTER(0xE000ED94)
#define MPU_RNR REGISTER(0xE000ED98)
#define MPU_RBAR REGISTER(0xE000ED9C)
#define MPU_RASR REGISTER(0xE000EDA0)

#define GUARD_BYTES 0x100000u /* below the model's stack nothing can be accessed */

extern uint32_t main_stack_top, model_stack_limit, model_stack_top;
extern uint32_t data_load, data_start, data_end, bss_start, bss_end;
extern int main(void);

void Reset_Handler(void);
void Fault_Handler(void);

void Reset_Handler(void) {
    SHCSR |= 7u << 16; /* memory management, bus and usage faults come as themselves, not as a hard fault */
    CCR |= 1u << 4;    /* a division by zero is a fault */
#if __ARM_ARCH >= 8
    CCR |= 1u << 19; /* low-overhead loops; ignored by cores without */
    __asm volatile("msr psplim, %0" ::"r"(&model_stack_limit));
#else
    /* No stack limit register: a region without access below RAM, where these boards ignore writes. */
    MPU_RNR = 0;
    MPU_RBAR = (uint32_t)(uintptr_t)&model_stack_limit - GUARD_BYTES;
    MPU_RASR = 1u << 28 | 19u << 1 | 1u; /* execute never, no access, 2^(19 + 1) bytes, on */
    MPU_CTRL = 5;                        /* on, all other memory as without it */
    __asm volatile("dsb\n isb");
#endif
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= 0xFu << 20; /* floating point and Helium */
    __asm volatile("dsb\n isb");
#endif
    const uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end;) *to++ = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end;) *to++ = 0;
    host_exit((uint32_t)main());
}

/* `frame`: the registers that the core pushed (r0-r3, r12, lr, pc, xpsr); 0 if they did not fit on the stack. */
__attribute__((used, noreturn)) static void report_fault(const uint32_t *frame, uint32_t exception) {
    const uint32_t cause = CFSR, memory_address = MMFAR, bus_address = BFAR;
    const uint32_t *limit = &model_stack_limit;
    const int readable = frame >= limit && frame <= &main_stack_top - 8;
    host_print_number("\nfirmware: fault", exception & 0x1FF);
    host_print_number("", cause);
    host_print_number("", readable ? frame[6] : 0);
    host_print_number("", cause & (1u << 15) ? bus_address : cause & (1u << 7) ? memory_address : 0);
    host_print_number("", (uint32_t)(uintptr_t)frame);
    host_print("\n");
    host_exit(1);
    for (;;) {
    }
}

/* Bit 2 of the return code tells which stack the registers were pushed to. The main stack starts anew: nothing returns. */
__attribute__((naked, used)) void Fault_Handler(void) {
    __asm volatile(
        "tst lr, #4\n"
        "ite eq\n"
        "mrseq r0, msp\n"
        "mrsne r0, psp\n"
        "mrs r1, ipsr\n"
        "ldr r2, =main_stack_top\n"
        "msr msp, r2\n"
        "b report_fault\n");
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &main_stack_top, (void *)Reset_Handler, (void *)Fault_Handler, (void *)Fault_Handler,
    (void *)Fault_Handler, (void *)Fault_Handler, (void *)Fault_Handler, (void *)Fault_Handler,
    0, 0, 0, (void *)Fault_Handler,
    (void *)Fault_Handler, 0, (void *)Fault_Handler, (void *)Fault_Handler,
};
