//! Pages spread over NUMA nodes by what each has ready.
//!
//! Asked for a pool without saying where, the kernel takes from each node in turn, and of a node that
//! is full it reclaims rather than pass on to one that is not (seen with Linux 6.1: 500 MB of page
//! cache gone while the other node had the pages). So the nodes are asked one by one, for no more
//! than they have.

/// How many of `wanted` pages each node is to give, as evenly as what they have ready allows.
pub(super) fn shares(ready: &[u64], wanted: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..ready.len()).collect();
    order.sort_by_key(|&node| ready[node]);
    let (mut shares, mut missing) = (vec![0; ready.len()], wanted);
    for (done, node) in order.into_iter().enumerate() {
        // Those that come after have at least as many.
        let even = missing.div_ceil((ready.len() - done) as u64);
        shares[node] = even.min(ready[node]);
        missing -= shares[node];
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_give_alike_and_none_more_than_it_has() {
        assert_eq!(shares(&[], 5), []);
        assert_eq!(shares(&[100, 100], 50), [25, 25]);
        assert_eq!(shares(&[100, 10], 50), [40, 10]);
        assert_eq!(shares(&[0, 100, 3], 50), [0, 47, 3]);
        assert_eq!(shares(&[10, 20], 50), [10, 20]);
        assert_eq!(shares(&[10, 10, 10], 0), [0, 0, 0]);
        assert_eq!(shares(&[9, 9], 5).iter().sum::<u64>(), 5);
    }
}
