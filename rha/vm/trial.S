# The trial of an accelerator (accelerator.py holds the same bytes): a boot sector that prints on the first serial port
#   R  real mode runs    P  protected mode    L  long mode, paging on    T  five timer interrupts and 2^27 loop rounds
# The loop is what tells: a kvm that steps through long mode by software passes everything else, at a thousandth of the
# speed, and a stock kernel then seems to hang while it unpacks itself.
#   as --64 trial.S -o trial.o && ld -m elf_x86_64 -Ttext 0x7c00 -e start --oformat binary trial.o -o trial.bin
    .globl start
.code16
start:
    cli
    xorw %ax,%ax
    movw %ax,%ds
    movw %ax,%es
    movw %ax,%ss
    movw $0x7c00,%sp
    movw $0x3f8,%dx
    movb $'R',%al
    outb %al,%dx
    inb $0x92,%al
    orb $2,%al
    outb %al,$0x92
    # page tables: 0x1000 PML4, 0x2000 PDPT, 0x3000 PD with one 2 MiB page at 0
    movw $0x1000,%di
    movw $0x1800,%cx
    xorw %ax,%ax
    cld
    rep stosw
    movl $0x2003,0x1000
    movl $0x3003,0x2000
    movl $0x83,0x3000
    lgdt gdtr
    movl %cr0,%eax
    orb $1,%al
    movl %eax,%cr0
    ljmp $8,$prot
.code32
prot:
    movw $16,%ax
    movw %ax,%ds
    movw %ax,%es
    movw %ax,%ss
    movl $0x7c00,%esp
    movw $0x3f8,%dx
    movb $'P',%al
    outb %al,%dx
    movl %cr4,%eax
    orb $0x20,%al
    movl %eax,%cr4
    movl $0x1000,%eax
    movl %eax,%cr3
    movl $0xc0000080,%ecx
    rdmsr
    orl $0x100,%eax
    wrmsr
    movl %cr0,%eax
    orl $0x80000000,%eax
    movl %eax,%cr0
    ljmp $24,$long
.code64
long:
    movw $0x3f8,%dx
    movb $'L',%al
    outb %al,%dx
    # IDT at 0x5000: gate 0x20 -> tick
    movl $0x5000,%edi
    xorl %eax,%eax
    movl $0x400,%ecx
    rep stosl
    movl $0x5200,%edi
    movl $(0x180000 + tick),%eax
    movl %eax,(%rdi)
    movl $0x8e00,4(%rdi)
    lidt idtr
    # PICs: vectors 0x20/0x28, only IRQ 0
    movb $0x11,%al
    outb %al,$0x20
    outb %al,$0xa0
    movb $0x20,%al
    outb %al,$0x21
    movb $0x28,%al
    outb %al,$0xa1
    movb $4,%al
    outb %al,$0x21
    movb $2,%al
    outb %al,$0xa1
    movb $1,%al
    outb %al,$0x21
    outb %al,$0xa1
    movb $0xff,%al
    outb %al,$0xa1
    movb $0xfe,%al
    outb %al,$0x21
    # PIT: channel 0, rate generator, 100 Hz
    movb $0x34,%al
    outb %al,$0x43
    movb $0x9c,%al
    outb %al,$0x40
    movb $0x2e,%al
    outb %al,$0x40
    xorl %ebx,%ebx
    sti
1:  hlt
    cmpl $5,%ebx
    jb 1b
    movw $0x3f8,%dx
    movl $0x8000000,%ecx
3:  decl %ecx
    jnz 3b
    movb $'T',%al
    outb %al,%dx
    movb $'\n',%al
    outb %al,%dx
    cli
2:  hlt
    jmp 2b
tick:
    incl %ebx
    movb $0x20,%al
    outb %al,$0x20
    iretq
.align 8
gdt: .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
    .quad 0x00af9a000000ffff
gdtr: .word 31
    .long gdt
idtr: .word 0x3ff
    .quad 0x5000
.org 510
    .byte 0x55,0xaa
