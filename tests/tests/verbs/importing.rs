//! A second process with the first one's domain.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use bookend::pool::{Rung, SharedPin};
use bookend::units::BlockId;
use bookend_registration::Registrar;
use bookend_registration::verbs::{Domain, QueuePair, RemoteMemory, import};
use bookend_tests::child::{self, Part};

use super::{PATIENCE, SIZES, blocks, content, device, fill, full, pair, pool_of, put};

#[test]
fn a_second_process_imports_domain_and_region() {
    let Some(device) = device() else { return };
    let domain = Domain::new(&device).unwrap();
    let pool = pool_of(Rung::Base, 2).unwrap();
    let region = domain.registrar(full()).unwrap();
    let region = region.register(SharedPin::new(pool.clone(), pool.blocks()).unwrap()).unwrap();
    let mr = region.registration().iter().next().unwrap().1;
    let file = import::command_file(&domain).as_raw_fd();
    // SAFETY: the descriptor is open; the child is to inherit it.
    assert_eq!(unsafe { libc::fcntl(file, libc::F_SETFD, 0) }, 0);
    let argument = format!("{file} {} {} {}", device.name(), domain.handle(), mr.handle());
    let mut part = Part::start("importing::part_of_the_importer", &argument);
    assert_eq!(part.listen(), format!("{:#x} {:#x}", mr.lkey(), mr.rkey()));
    // It has a queue pair in our domain: we write to it, through its queue, into our pool.
    let one = QueuePair::new(&domain, 1, SIZES, full()).unwrap();
    part.tell(&one.endpoint().to_string());
    one.connect(&part.listen().parse().unwrap()).unwrap();
    fill(&pool, blocks(0, 1), 5);
    let entries = region.registration().entries(pool.base().as_ptr(), 2 << 20).unwrap();
    let to =
        RemoteMemory { address: pool.address(BlockId::new(1)).as_ptr() as u64, key: mr.rkey() };
    // SAFETY: nobody else uses the pool until the completion.
    unsafe { one.write(1, &entries, to, Some(77)) }.unwrap();
    one.wait(PATIENCE).unwrap();
    assert_eq!(part.listen(), "received 77");
    assert!(content(&pool, blocks(0, 1)) == content(&pool, blocks(1, 1)));
    part.kill();
    // What was ours is still there, and works.
    let (one, other) = pair(&domain);
    put(&one, &other, &entries, to.address, to.key).unwrap();
}

#[test]
#[ignore = "a part of another test"]
fn part_of_the_importer() {
    let Some(argument) = child::argument() else { return };
    let mut words = argument.split(' ');
    let mut number = || words.next().unwrap().to_owned();
    let file = number().parse().unwrap();
    let (device, domain, region) = (number(), number().parse().unwrap(), number().parse().unwrap());
    // SAFETY: the parent left it open for this process.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let domain = import::import(file, &device, domain).unwrap();
    let keys = import::keys(&domain, region).unwrap();
    child::say(&format!("{:#x} {:#x}", keys.lkey, keys.rkey));
    assert!(import::keys(&domain, region + 1000).is_err());
    let queue = QueuePair::new(&domain, 1, SIZES, full()).unwrap();
    queue.connect(&child::hear().unwrap().parse().unwrap()).unwrap();
    // SAFETY: immediate data needs no room.
    unsafe { queue.receive(1, &[]) }.unwrap();
    child::say(&queue.endpoint().to_string());
    let received = queue.wait(PATIENCE).unwrap();
    child::say(&format!("received {}", received.immediate.unwrap()));
    child::hear();
}
