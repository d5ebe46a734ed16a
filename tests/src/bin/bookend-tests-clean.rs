//! Undoes what killed test runs have left on the machine; `tests/run` calls it first and last.

fn main() {
    drop(bookend_tests::machine::MachineLock::take());
}
