//! The placement against its model, over long sequences of actions.

use proptest::prelude::*;

use super::model;
use super::{Blocks, Placement};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_placement_agrees_with_its_model(
        capacity in prop_oneof![0u32..20, 20u32..250],
        actions in prop::collection::vec(any::<[u8; 4]>(), 0..250),
    ) {
        let placement = Placement::new(Blocks::new(capacity)).unwrap();
        model::run(placement, actions.as_flattened());
    }
}
