// Brings a CPU from the state that the firmware leaves it in (exception level 2 or 1, MMU and
// caches off) to exception level 1 with the MMU on, and calls Rust. At level 3, without firmware,
// the CPU stops. No memory is written before the MMU is on: it would not be coherent with the
// caches.

// The first CPU: x0 the address of the device tree, or 0.
    .section .text.boot, "ax"
    .globl start
start:
    adrp x1, boot_stack_top
    add x1, x1, :lo12:boot_stack_top
    adrp x2, first_cpu
    add x2, x2, :lo12:first_cpu
    b enter

// Every other CPU, by PSCI: x0 the end of its stack.
    .globl start_other
start_other:
    mov x1, x0
    adrp x2, other_cpu
    add x2, x2, :lo12:other_cpu

// x0 the argument, x1 the end of the stack, x2 the function.
enter:
    msr daifset, #15                // no interrupts
    mrs x3, CurrentEL
    cmp x3, #1 << 2
    b.eq 1f
    cmp x3, #2 << 2
    b.ne park
// From exception level 2 to 1.
    mov x3, #1 << 31                // HCR: level 1 has 64 bits
    msr hcr_el2, x3
    mov x3, #0x33ff                 // CPTR: no trap of vector registers
    msr cptr_el2, x3
    mrs x3, midr_el1
    msr vpidr_el2, x3
    mrs x3, mpidr_el1
    msr vmpidr_el2, x3
    ldr x3, =0x30d00800             // SCTLR: the bits that are always set
    msr sctlr_el1, x3
    mov x3, #0x3c5                  // SPSR: level 1, its own stack, no interrupts
    msr spsr_el2, x3
    adr x3, 1f
    msr elr_el2, x3
    eret

1:  msr spsel, #1
    mov x3, #3 << 20                // CPACR: no trap of vector registers
    msr cpacr_el1, x3
    adrp x3, vectors
    add x3, x3, :lo12:vectors
    msr vbar_el1, x3
    mov x3, #0x00ff                 // MAIR: attribute 0 is cached memory, 1 is devices
    msr mair_el1, x3
// TCR: addresses of 48 bits, pages of 4 KiB, tables in cached memory that all CPUs share; no upper
// half; physical addresses as wide as the processor has them, at most 48 bits.
    mrs x4, id_aa64mmfr0_el1
    and x4, x4, #15
    mov x5, #5
    cmp x4, x5
    csel x4, x4, x5, lo
    ldr x3, =0x803510
    orr x3, x3, x4, lsl #32
    msr tcr_el1, x3
    adrp x3, root_table
    msr ttbr0_el1, x3
    isb
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
    ldr x3, =0x30d0180d             // SCTLR: MMU, caches, check of the stack's alignment
    msr sctlr_el1, x3
    isb
    mov sp, x1
    mov x29, xzr
    mov x30, xzr
    blr x2
park:
    wfi
    b park
    .ltorg

// No exception is expected. Rust prints what it was.
    .balign 2048
vectors:
    .rept 16
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    b unexpected_exception
    .balign 128
    .endr

// The identity map: 1 GiB of devices, and 1 GiB of memory with the kernel and the device tree. The
// kernel adds the rest of the memory.
    .section .data.boot, "aw"
    .balign 4096
root_table:
    .quad gibibytes + 3
    .fill 511, 8, 0
    .globl gibibytes
gibibytes:
    .quad 0x0060000000000405        // devices; never executed
    .quad 0x0040000040000701        // memory; shared; not executed by programs
    .fill 510, 8, 0

    .section .bss.boot, "aw", @nobits
    .balign 16
    .skip 65536
boot_stack_top:
