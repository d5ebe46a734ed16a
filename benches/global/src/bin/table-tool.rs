//! A data tool: a group-by and a join over a large table in memory, with hashbrown.
//!
//! - `table-group-by`: 6 million orders of 600,000 customers are grouped by the customer's name: how
//!   many, how much, the largest; each group keeps the list of its orders.
//! - `table-join`: the same orders are joined with the customers through a hash table of the
//!   customers' names, and the rows that match are collected with names of their own.
//!
//! Names are strings of their own each, as after parsing a file; so there are columns of hundreds of
//! megabytes, tables that grow by doubling, and millions of small strings and lists at the same
//! time. Sums are compared with those of the columns, so that corrupted memory ends the program.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::process::ExitCode;

use bookend_global_benches::{Options, Rng, main_of};
use hashbrown::HashMap;

type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

const ORDERS: f64 = 6e6;
const ORDERS_A_CUSTOMER: usize = 10;

fn main() -> ExitCode {
    main_of(&[("table-group-by", group_by), ("table-join", join)])
}

/// Orders by column.
struct Orders {
    customers: Vec<u32>,
    amounts: Vec<u64>,
}

impl Orders {
    fn generate(count: usize) -> Self {
        let mut rng = Rng::new(1);
        let bound = (count / ORDERS_A_CUSTOMER).max(1) as u32;
        let mut orders = Self { customers: Vec::new(), amounts: Vec::new() };
        for _ in 0..count {
            orders.customers.push(rng.below(bound));
            orders.amounts.push(u64::from(rng.below(100_000)));
        }
        orders
    }

    fn total(&self) -> u64 {
        self.amounts.iter().sum()
    }
}

fn name(customer: u32) -> String {
    format!("customer {customer:09} of somewhere")
}

#[derive(Default)]
struct Group {
    total: u64,
    largest: u64,
    orders: Vec<u32>,
}

fn group_by(options: &Options) -> u64 {
    let orders = Orders::generate(options.scaled(ORDERS, 1000));
    let mut groups: Map<String, Group> = Map::default();
    for (row, (customer, amount)) in orders.customers.iter().zip(&orders.amounts).enumerate() {
        let group = groups.entry(name(*customer)).or_default();
        group.total += amount;
        group.largest = group.largest.max(*amount);
        group.orders.push(row as u32);
    }
    let total: u64 = groups.values().map(|group| group.total).sum();
    let rows: usize = groups.values().map(|group| group.orders.len()).sum();
    assert_eq!((total, rows), (orders.total(), orders.amounts.len()), "groups lost orders");
    let mut sorted: Vec<(&String, &Group)> = groups.iter().collect();
    sorted.sort_by(|x, y| y.1.largest.cmp(&x.1.largest).then(x.0.cmp(y.0)));
    assert_eq!(sorted.len(), groups.len(), "sorting lost groups");
    rows as u64
}

fn join(options: &Options) -> u64 {
    let orders = Orders::generate(options.scaled(ORDERS, 1000) / 2);
    let customers = (orders.amounts.len() / ORDERS_A_CUSTOMER).max(1) as u32;
    // Every other customer is known; orders of the others match nothing.
    let mut known: Map<String, (u32, String)> = Map::default();
    for customer in (0..customers).step_by(2) {
        known.insert(name(customer), (customer, format!("segment {}", customer % 7)));
    }
    let mut joined: Vec<(String, String, u64)> = Vec::new();
    for (customer, amount) in orders.customers.iter().zip(&orders.amounts) {
        let key = name(*customer);
        if let Some((found, segment)) = known.get(&key) {
            assert_eq!(found, customer, "the table holds somebody else");
            joined.push((key, segment.clone(), *amount));
        }
    }
    let matching = orders.customers.iter().zip(&orders.amounts);
    let expected: u64 =
        matching.filter(|(customer, _)| *customer % 2 == 0).map(|(_, amount)| amount).sum();
    let total: u64 = joined.iter().map(|(_, _, amount)| amount).sum();
    assert_eq!(total, expected, "the join lost orders");
    orders.amounts.len() as u64
}
