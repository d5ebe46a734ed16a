//! fragbench

fn main() {}
