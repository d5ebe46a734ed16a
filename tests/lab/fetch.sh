# What the lab is made of: QEMU, installed; a kernel and the guest's programs, only unpacked.
# Sourced by tests/lab/run.
#
# apt keeps a state of its own under $cache, so that nothing of the host's changes and no root is
# needed: its sources are the host's, and for the newer kernels backports suites of the same mirror.
# Packages are verified by apt, against the signed lists.

# Where Debian's newest kernel for a released Debian is.
latest_suite=trixie-backports

# The guest's programs; what they depend on comes with them.
guest_packages=(
    busybox-static                               # shell, mount, insmod, ...
    iproute2 ibverbs-providers ibverbs-utils     # rxe0, and verbs
    perftest rdmacm-utils                        # independent clients of the device
    nvme-cli ndctl e2fsprogs mount
    nfs-kernel-server
)

# Fetches what is not there yet; one run at a time.
fetch_all() {
    [ "$(uname -m)" = x86_64 ] || no_lab "it wants an x86-64 machine, this is $(uname -m)"
    need qemu-system-x86_64 qemu-system-x86
    need depmod kmod
    need xz xz-utils
    need strip binutils
    install_needed || no_lab "${missing_programs[*]} missing"
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        no_lab "kernel and tools are Debian packages, and this machine has no apt-get and dpkg"
    exec 7>"$cache/lock"
    flock 7
    [ "${guest_packages[*]}" = "$(cat "$cache/packages" 2>/dev/null)" ] || rm -rf "$cache/userland"
    [ -d "$cache/userland" ] || fetch_userland || no_lab "the guest's programs cannot be fetched"
    [ -d "$cache/kernel-$kernel" ] || fetch_kernel || no_lab "no $kernel kernel can be fetched"
    exec 7>&-
    release=$(ls "$cache/kernel-$kernel/lib/modules")
}

# lab_apt SUITE TOOL...: an apt tool on the state kept for SUITE.
lab_apt() {
    local state=$cache/apt-$1 suite=$1 tool=$2
    shift 2
    local sources=()
    [ "$suite" = release ] ||
        sources=(-o "Dir::Etc::SourceList=$state/sources.list" -o Dir::Etc::SourceParts=/dev/null)
    "$tool" -q -o "Dir::State=$state" -o "Dir::State::status=$state/status" \
        -o "Dir::Cache=$state/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1 \
        ${sources[@]+"${sources[@]}"} "$@"
}

# Reads the lists of SUITE.
update() {
    local state=$cache/apt-$1
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    # No package counts as installed: a closure is then whole.
    : >"$state/status"
    case $1 in
    backports) source_of "$(codename)-backports" >"$state/sources.list" ;;
    latest) source_of "$latest_suite" >"$state/sources.list" ;;
    esac
    lab_apt "$1" apt-get update >"$work/apt.log" 2>&1 || show_and_fail "$work/apt.log"
}

show_and_fail() {
    cat "$1" >&2
    return 1
}

codename() {
    (. /etc/os-release && echo "${VERSION_CODENAME-}")
}

# source_of SUITE: on the mirror that this machine uses for its release; signed by Debian.
source_of() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=
    # shellcheck disable=SC2016 # apt's own placeholders
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(LABEL)' \
        'Created-By: Packages' | awk -v name="$(codename)" '$2 == name && $3 == "Debian" {print $1; exit}')
    [ ! -e "$keyring" ] || signed="[signed-by=$keyring] "
    echo "deb $signed${mirror:-http://deb.debian.org/debian} $1 main"
}

# unpack SUITE NAME PACKAGE...: the packages, unpacked in $cache/NAME, whole or not at all.
unpack() {
    local suite=$1 name=$2 deb
    shift 2
    rm -rf "$work/debs" "$work/tree"
    mkdir -p "$work/debs" "$work/tree"/usr/{bin,sbin,lib,lib64}
    # One tree for /bin and /usr/bin, whichever of them a package says.
    (cd "$work/tree" && ln -s usr/bin usr/sbin usr/lib usr/lib64 .)
    (cd "$work/debs" && lab_apt "$suite" apt-get download "$@") >"$work/apt.log" 2>&1 ||
        show_and_fail "$work/apt.log" || return
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$work/tree" || return
    done
    rm -rf "$work/debs"
    mv "$work/tree" "$cache/$name"
}

fetch_userland() {
    local closure
    echo "lab: fetching the guest's programs"
    update release || return
    # perl and python stand behind scripts that nobody runs here.
    closure=$(lab_apt release apt-get install -s --no-install-recommends "${guest_packages[@]}" |
        awk '$1 == "Inst" && $2 !~ /perl|python|usrmerge|^dpkg$/ { print $2 }') || return
    # shellcheck disable=SC2086 # one word each
    unpack release userland.part $closure || return
    rm -rf "$cache/userland.part/usr/share" "$cache"/userland.part/usr/lib/*/gconv
    mv "$cache/userland.part" "$cache/userland"
    echo "${guest_packages[*]}" >"$cache/packages"
}

# depends_on SUITE PACKAGE NAME: those of its dependencies that begin so, each a line.
depends_on() {
    lab_apt "$1" apt-cache depends "$2" | sed -n "s/^ *Depends: \($3[^ ]*\)\$/\1/p"
}

fetch_kernel() {
    local package parts version tree=$cache/kernel-$kernel.part
    echo "lab: fetching the $kernel kernel"
    rm -rf "$tree"
    update "$kernel" || return
    package=$(depends_on "$kernel" linux-image-amd64 'linux-image-[0-9]' | head -n 1) || return
    [ -n "$package" ] || return
    # The newest come in parts: kernel, modules, their lists.
    parts=$(depends_on "$kernel" "$package" 'linux-[a-z]*-[0-9]') || return
    # shellcheck disable=SC2086 # one word each
    unpack "$kernel" "kernel-$kernel.part" "$package" $parts || return
    version=$(ls "$tree/lib/modules") || return
    depmod -b "$tree" "$version" || return
    # There, the kernel lies beside its modules.
    mkdir -p "$tree/boot"
    [ -e "$tree/boot/vmlinuz-$version" ] || cp "$tree/lib/modules/$version/vmlinuz" "$tree/boot/vmlinuz-$version" || return
    mv "$tree" "$cache/kernel-$kernel"
}
