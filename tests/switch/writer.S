# A guest in one sector: writes 4 KiB at pseudo-random places of its disk for ever, a burst each timer tick (18.2 Hz),
# until the power button is pressed (ACPI, PM1a at 0x600 on pc and q35); then it prints and switches itself off.
.code16
.globl start
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, drive
    movw $begun, %si
    call print
    movw $0x600, %dx        # PM1_STS: forget an old press
    movw $0x100, %ax
    outw %ax, %dx
    movw $0x602, %dx        # PM1_EN: power button
    outw %ax, %dx
tick:
    sti
    hlt
    movw burst, %bp
write:
    incl count
    movl seed, %eax
    imull $1664525, %eax, %eax
    addl $1013904223, %eax
    movl %eax, seed
    shrl $8, %eax
    xorl %edx, %edx
    divl pages
    shll $3, %edx
    addl $8, %edx
    movl %edx, lba
    movl count, %eax
    movw $0x8000, %di
    movw $1024, %cx
    cld
    rep stosl
    movw $packet, %si
    movb drive, %dl
    movw $0x4300, %ax
    int $0x13
    jc failed
    movw $0x600, %dx
    inw %dx, %ax
    testb $1, %ah
    jnz off
    decw %bp
    jnz write
    jmp tick
failed:
    movw $broken, %si
    call print
    jmp stop
off:
    movw $ended, %si
    call print
    movw $0x604, %dx        # PM1_CNT: S5
    movw $0x2000, %ax
    outw %ax, %dx
stop:
    cli
    hlt
    jmp stop
print:
    movw $0x3f8, %dx
next:
    lodsb
    testb %al, %al
    jz printed
    outb %al, %dx
    jmp next
printed:
    ret
begun: .asciz "writing\r\n"
ended: .asciz "power button\r\n"
broken: .asciz "write failed\r\n"
drive: .byte 0
    .balign 4
count: .long 0
seed: .long 1
packet: .byte 16, 0
    .word 8
    .word 0x8000, 0
lba: .quad 0
    .org 0x1a8
burst: .word 8              # filled in by whoever makes the disk
    .word 0
pages: .long 1
    .ascii "GRUB"           # what a boot loader of BIOS is recognised by
