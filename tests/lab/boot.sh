# Boots the image, streams what the tests print, and takes their result. Sourced by tests/lab/run.
#
# The guest has two serial lines: the kernel's console, kept in a file, and the tests' output,
# whose last line is the result. A guest that ends without one crashed; one that outlives the limit
# hung.

boot() {
    local status=0 arguments vm_args=()
    make_drives
    vm_arguments
    # What guards a kernel against its programs costs most under emulation, and guards nothing here. Both
    # processors have the host's clock; the kernel suspects that they differ, and would ask a chip for the time.
    arguments="mitigations=off tsc=reliable init_on_alloc=0 no5lvl nokaslr console=ttyS0 panic=-1 oops=panic lab.limit=$((limit / 2))"
    [ -z "$movable" ] || arguments+=" movablecore=$movable"
    echo "lab: booting Linux $release, ${SECONDS} s after the start"
    : >"$work/console"
    : >"$work/output"
    timeout --foreground --kill-after=5 "$limit" qemu-system-x86_64 "${vm_args[@]}" \
        -kernel "$cache/kernel-$kernel/boot/vmlinuz-$release" -initrd "$work/initrd" \
        -append "$arguments" -serial "file:$work/console" -serial "file:$work/output" \
        </dev/null >"$work/qemu.log" 2>&1 &
    vm=$!
    show "$work/output" &
    [ -z "$console_shown" ] || show "$work/console" &
    # Not in the foreground, so that a signal is heard.
    wait "$vm" || status=$?
    wait
    vm=
    cp "$work/console" "$cache/console"
    judge "$status"
}

# Shows a file as it grows, until the machine is off.
show() {
    tail -n +1 -f -s 0.2 --pid="$vm" "$1"
}

# Emulation moves strings of bytes one by one, and shuffles vectors byte by byte: processors that claim to do that
# fast would copy slowest, and take three times as long for checksums. The kernel's code for pclmulqdq and, of newer
# ones, for AES takes SSE 4.1 for granted.
processor=max,-erms,-fsrm,-avx2,-avx,-sse4a,-sse4.2,-sse4.1,-ssse3,-pclmulqdq,-aes

# As many processors as nodes; all is emulated, since KVM is not everywhere and the lab must be. By one thread in
# turns: before QEMU 8.1 a processor may go on for ever with a translation of what another has changed meanwhile,
# and a kernel that switches a static key (the first control group does) then hangs in its own breakpoint.
vm_arguments() {
    local all=$((2 * ${memory%G}))G
    vm_args=(
        -machine q35,nvdimm=on -accel tcg,thread=single -cpu "${LAB_CPU:-$processor}" -smp 2,sockets=2
        -m "$all,slots=2,maxmem=$((2 * ${memory%G} + 4))G"
        -object "memory-backend-ram,id=ram0,size=$memory" -numa node,nodeid=0,cpus=0,memdev=ram0
        -object "memory-backend-ram,id=ram1,size=$memory" -numa node,nodeid=1,cpus=1,memdev=ram1
        # 128 ranges, 1 MiB a range: the limits of the Copy command.
        -drive "file=$work/nvme,if=none,id=drive,format=raw,discard=unmap"
        -device nvme,id=nvme,serial=lab
        -device nvme-ns,drive=drive,bus=nvme,mssrl=2048,mcl=65535,msrc=127
        # Blocks of 4 KiB, and two ranges of 16 of them.
        -drive "file=$work/nvme2,if=none,id=drive2,format=raw,discard=unmap"
        -device nvme-ns,drive=drive2,bus=nvme,logical_block_size=4096,physical_block_size=4096,mssrl=16,mcl=40,msrc=1
        -object "memory-backend-file,id=pmem0,share=on,mem-path=$work/pmem0,size=272M"
        -device nvdimm,memdev=pmem0,label-size=16M,node=0
        -object "memory-backend-file,id=pmem1,share=on,mem-path=$work/pmem1,size=272M"
        -device nvdimm,memdev=pmem1,label-size=16M,node=1
        -display none -no-reboot -monitor none -nic none
    )
}

# Files with holes; they are as large as what the tests write.
make_drives() {
    truncate -s 512M "$work/nvme"
    truncate -s 64M "$work/nvme2"
    truncate -s 272M "$work/pmem0" "$work/pmem1"
}

# judge STATUS: the tests' result, or what the console shows of a guest that gave none.
judge() {
    local result
    if grep -E 'WARNING: CPU|BUG:|Oops|Kernel panic' "$work/console" >"$work/complaints"; then
        echo "lab: the kernel complained:" >&2
        sed 's/^/  /' "$work/complaints" >&2
    fi
    result=$(tail -n 3 "$work/output" | sed -n 's/^lab: exit \([0-9]*\)$/\1/p')
    if [ -n "$result" ]; then
        [ "$result" = 0 ] || echo "lab: the guest's console: $cache/console" >&2
        exit "$result"
    fi
    echo "lab: the end of the guest's console:" >&2
    tail -n 60 "$work/console" | sed 's/^/  | /' >&2
    cat "$work/qemu.log" >&2
    case $1 in
    124 | 137) echo "lab: the guest hung: no result after $limit seconds" >&2 ;;
    *) echo "lab: the guest crashed: it ended without a result (QEMU's exit status: $1)" >&2 ;;
    esac
    exit 1
}
