//! Gives the shared object its name. A cdylib exports what is `no_mangle` and nothing else.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libbookend.so.0");
    // Found at run time by every function that the program links to: no lazy binding, which would
    // take locks of the dynamic linker in the middle of an allocation.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,now");
}
