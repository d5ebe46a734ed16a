# The guest's initramfs: programs and modules, the same for all runs, and the run's tests.
# Sourced by tests/lab/run.
#
# Test binaries lie in the guest where they lie here, so that what was compiled into them (the path
# of a tool, of a manifest) holds there too.

# Loaded at boot in this order, each with what it depends on; see init for what they are for.
guest_modules=(
    crc32_generic dummy ib_uverbs rdma_ucm rdma_rxe
    nvme nfit nd_pmem dax_pmem device_dax
    ext4 loop
    veth sch_netem tcp_bbr tcp_diag
)
# There for the test that wants them.
nfs_modules=(nfsd nfsv4)

plan_begin() {
    tree=$work/root
    mkdir -p "$tree/lab"
    : >"$tree/lab/plan"
    [ ${#extra[@]} -eq 0 ] || take "${extra[@]}"
}

# 'WORD' for a POSIX shell.
quoted() {
    local word
    for word in "$@"; do
        printf " '%s'" "${word//\'/\'\\\'\'}"
    done
}

# plan PAGES NAME COMMAND...: the guest runs COMMAND, with PAGES huge pages in each node.
plan() {
    printf 'run %s%s\n' "$1" "$(quoted "${@:2}")" >>"$tree/lab/plan"
}

plan_binary() {
    take "$1"
    plan "$pages" "$(basename "$1")" "$@"
}

plan_shell() {
    plan "$pages" shell sh -c "$1"
}

# The lines of tests/lab/tests: TARGET PAGES [ARGUMENT...]; plan_tests FILTER...
plan_tests() {
    local target count arguments binary targets=()
    while read -r target count arguments; do
        targets+=("$target")
    done < <(test_lines)
    build_tests "${targets[@]}"
    while read -r target count arguments; do
        binary=$(awk -v target="$target" '$1 == target { print $2 }' "$work/binaries")
        [ -n "$binary" ] || usage "tests/lab/tests: cargo built no $target"
        # A program without a test of that name is not worth its boot.
        [ $# -eq 0 ] || "$binary" "$@" --list | grep -c ': test$' >/dev/null || continue
        take "$binary"
        # A filter of the user's takes the place of the line's own.
        [ $# -eq 0 ] || arguments=$(only_options $arguments)
        # shellcheck disable=SC2086 # one word each
        plan "$count" "$target" "$binary" "$@" $arguments
    done < <(test_lines)
    take "$target_dir"/{debug,release}/{hugecp,hugectl,fragbench} "$target_dir/debug/examples/rdma-put"
    [ -s "$tree/lab/plan" ] || { echo "lab: no test has $* in its name" && exit 0; }
}

# Options with their values, without filters.
only_options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --skip | --test-threads) echo "$1 $2" && shift 2 ;;
        -*) echo "$1" && shift ;;
        *) shift ;;
        esac
    done
}

test_lines() {
    sed 's/#.*//; /^[[:space:]]*$/d' tests/lab/tests
}

# Builds PACKAGE/lib and PACKAGE/TEST targets; "TARGET PATH" of each goes to $work/binaries. Packages
# are selected as tests/run does, so that features are the same and nothing is built twice.
build_tests() {
    local selected=() target
    for target in "$@"; do
        [[ $target = */lib ]] || selected+=(--test "${target#*/}")
    done
    [[ " $* " != *"/lib "* ]] || selected+=(--lib)
    cargo build --release --locked --package bookend-tools --package bookend-preload || exit
    cargo build --locked --workspace --example rdma-put || exit
    cargo test --workspace --locked --no-run --message-format=json-render-diagnostics \
        "${selected[@]}" >"$work/messages" || exit
    sed -n '/"reason":"compiler-artifact"/s/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"kind":\["\([a-z]*\)[^]]*\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3 \4/p' \
        "$work/messages" | while read -r directory kind name path; do
        case $kind in
        lib | rlib | cdylib) name=lib ;;
        test) ;;
        *) continue ;;
        esac
        package=$(sed -n 's/^name = "\(.*\)"/\1/p;' "$directory/Cargo.toml" | head -n 1)
        echo "$package/$name $path"
    done >"$work/binaries"
}

# take FILE...: copies files, and the libraries that the guest lacks, to the same paths in the guest.
take() {
    local file library
    for file in "$@"; do
        [ -e "$tree$file" ] && continue
        mkdir -p "$tree${file%/*}"
        # Without debugging information: a tenth of the size.
        strip --strip-debug -o "$tree$file" "$file" 2>/dev/null || cp "$file" "$tree$file"
        # A file that is no program, and a static one, needs none.
        { ldd "$file" 2>/dev/null || true; } | sed -n 's/^.*=> \(\/[^ ]*\) (.*/\1/p' | while read -r library; do
            [ -e "$cache/userland$library" ] || [ -e "$cache/userland/usr$library" ] ||
                install -D "$library" "$tree$library"
        done
    done
}

# The archive for the kernel: the common part, made once, and after it the run's.
make_image() {
    local common=$cache/common-$release.cpio
    local scripts=(tests/lab/init tests/lab/image.sh tests/lab/fetch.sh)
    if [ ! -e "$common" ] || [ -n "$(find "${scripts[@]}" "$cache/userland" -maxdepth 0 -newer "$common")" ]; then
        make_common
        archive "$work/common" >"$work/common.cpio"
        mv "$work/common.cpio" "$common"
        rm -rf "$work/common"
    fi
    archive "$tree" | cat "$common" - >"$work/initrd"
}

make_common() {
    local root=$work/common
    mkdir -p "$root"
    cp -a "$cache/userland/." "$root/"
    # Of the providers only the software devices': each program that uses verbs loads all there are.
    find "$root/etc/libibverbs.d" "$root"/usr/lib/*/libibverbs ! -type d ! -name 'rxe.*' ! -name 'siw.*' \
        ! -name 'librxe-*' ! -name 'libsiw-*' -delete
    cp tests/lab/init "$root/init"
    mkdir -p "$root"/{dev,proc,sys,run,tmp,etc,root,lab/modules,var/tmp}
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'nobody:x:65534:65534:nobody:/:/bin/false' >>"$root/etc/passwd"
    take_modules order "${guest_modules[@]}"
    take_modules nfs "${nfs_modules[@]}"
}

# take_modules LIST MODULE...: the modules with what they depend on, and their names in the order in which
# they load, each once; a module that is built in, or not there, has no line.
take_modules() {
    local list=$1 module path
    shift
    for module in "$@"; do
        modprobe -S "$release" -d "$cache/kernel-$kernel" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/modules"
    while read -r path; do
        module=$(basename "${path%.xz}")
        case $path in
        *.xz) xz -dc "$path" >"$root/lab/modules/$module" ;;
        *) cp "$path" "$root/lab/modules/$module" ;;
        esac
        echo "$module"
    done <"$work/modules" >"$root/lab/modules/$list"
}

archive() {
    (cd "$1" && find . -print | "$cache/userland/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null)
}
