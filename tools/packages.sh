# Debian packages that are missing, installed; sourced by tools/setup and tests/run.
#
# need PROGRAM PACKAGE...   notes that PROGRAM is wanted, and what holds it
# install_needed            installs what is missing, or says what to run and fails

missing_programs=()
missing_packages=()

need() {
    local program=$1
    shift
    # /usr/sbin is not on every user's path.
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1; then
        missing_programs+=("$program")
        missing_packages+=("$@")
    fi
}

install_needed() {
    [ ${#missing_packages[@]} -eq 0 ] && return
    local as_root=()
    echo "missing: ${missing_programs[*]}; installing ${missing_packages[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
        # Without a terminal nobody can type a password.
        [ -t 0 ] || as_root+=(-n)
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "apt-get is not here: install what holds ${missing_programs[*]} by hand" >&2
        return 1
    fi
    if "${as_root[@]}" apt-get -q update >/dev/null &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -q install -y --no-install-recommends "${missing_packages[@]}" >/dev/null; then
        missing_programs=()
        missing_packages=()
        return
    fi
    echo "could not install; as root, run: apt-get install ${missing_packages[*]}" >&2
    return 1
}

need_rust() {
    local env="${CARGO_HOME:-$HOME/.cargo}/env"
    if ! command -v cargo >/dev/null 2>&1 && [ -r "$env" ]; then
        # shellcheck disable=SC1090
        . "$env"
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        echo "cargo is missing: install Rust 1.95 or later from https://rustup.rs" >&2
        return 1
    fi
}
