//! A program whose allocator is Bookend, set up as the program says; and a collection that takes it
//! by the trait of `allocator-api2`.

use std::process::Command;

use bookend::Bookend;
use bookend::heap::{Config, Configured, Report, raw};
use bookend::units::Bytes;

#[global_allocator]
static GLOBAL: Configured =
    Configured::new(Config::DEFAULT.small(Bytes::ZERO).return_delay_ms(0).report(Report::Json));

/// What this program, run again for one test, prints when it ends.
fn end_of(test: &str, variables: &[(&str, &str)]) -> String {
    let us = std::env::current_exe().unwrap();
    let mut command = Command::new(us);
    command.args(["--exact", test, "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_map_takes_it() {
    let mut map = hashbrown::HashMap::new_in(Bookend);
    let before = raw::stats().huge;
    map.extend((0..1_000_000u64).map(|n| (n, !n)));
    assert!((0..1_000_000).all(|n| map[&n] == !n));
    assert!(raw::stats().huge > before, "a table of 17 MB is a huge extent");
}

#[test]
fn what_the_program_says_holds_unless_the_environment_says_otherwise() {
    let json = end_of("a_map_takes_it", &[]);
    let report = json.lines().filter(|line| !line.is_empty()).collect::<String>();
    let stats: serde_json::Value = serde_json::from_str(&report).unwrap_or_else(|why| {
        panic!("{why}: {report}");
    });
    assert!(stats["objects"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(end_of("a_map_takes_it", &[("BOOKEND_STATS", "0")]), "");
}
