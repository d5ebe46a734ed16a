//! hugecp

fn main() {}
