# Brings a CPU from the state that the boot loader (or a startup interrupt) leaves it in to long
# mode, and calls Rust. Both paths enter enter_long_mode with the stack in esp, the function in ebp
# and its argument in esi.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                  # lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

# The first CPU: 32-bit protected mode, paging off, ebx the start info.
    .section .text.boot, "ax"
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %esi
    # Identity-maps the first 4 GiB in pages of 2 MiB.
    movl $pdpt + 3, pml4
    movl $pdpt, %edi
    movl $directories + 3, %eax
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $directories, %edi
    movl $0x83, %eax                # present, writable, 2 MiB
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    movl $first_cpu, %ebp

enter_long_mode:
    movl %cr4, %eax
    orl $0x20, %eax                 # PAE
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80010001, %eax           # PG, PE, WP: the kernel cannot write to read-only pages
    movl %eax, %cr0
    lgdt gdtr
    ljmp $0x18, $long_mode

    .code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %esp, %esp                 # clears the undefined upper half
    movl %esi, %edi
    movl %ebp, %eax
    xorl %ebp, %ebp
    call *%rax
    ud2

# Every other CPU: real mode, at the page that the startup interrupt names. This code is copied to
# that page, below 1 MiB.
    .set HERE, 0x8000
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl HERE + trampoline_gdtr - trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(HERE + trampoline_32 - trampoline)
    .code32
trampoline_32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl next_cpu_stack, %esp
    movl next_cpu_argument, %esi
    movl $other_cpu, %ebp
    movl $enter_long_mode, %eax
    jmp *%eax
    .balign 8
trampoline_gdtr:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .section .data.boot, "aw"
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff        # 0x08: code, 32 bits
    .quad 0x00cf92000000ffff        # 0x10: data
    .quad 0x00af9a000000ffff        # 0x18: code, 64 bits
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
pml4:
    .skip 4096
    .globl pdpt
pdpt:
    .skip 4096
directories:
    .skip 4 * 4096
    .skip 65536
boot_stack_top:
