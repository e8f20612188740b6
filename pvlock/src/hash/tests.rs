//! The table against a map.

extern crate std;

use std::boxed::Box;
use std::collections::HashMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::{HashEntry, LockHash};
use crate::node::NodeId;

const CPUS: u32 = 4;

#[repr(align(64))]
struct Table([HashEntry; LockHash::entries_for(CPUS)]);

fn table() -> LockHash {
    let table = Table([const { HashEntry::new() }; LockHash::entries_for(CPUS)]);
    LockHash::new(&Box::leak(Box::new(table)).0)
}

fn node(raw: u32) -> NodeId {
    NodeId::from_raw(raw).expect("not 0")
}

#[derive(Clone, Debug)]
enum Step {
    Insert { lock: usize, node: u32 },
    Remove { which: prop::sample::Index },
}

fn step() -> impl Strategy<Value = Step> {
    // Addresses of neighbouring words, so that they collide, and far ones.
    let lock = prop_oneof![
        (1usize..64).prop_map(|word| 0x1000 + 4 * word),
        1usize..usize::MAX
    ];
    prop_oneof![
        (lock, 1u32..1 << NodeId::BITS).prop_map(|(lock, node)| Step::Insert { lock, node }),
        any::<prop::sample::Index>().prop_map(|which| Step::Remove { which }),
    ]
}

proptest! {
    #[test]
    fn finds_what_was_inserted(steps in prop::collection::vec(step(), 1..200)) {
        let (hash, mut model) = (table(), HashMap::new());
        for step in steps {
            match step {
                Step::Insert { lock, node: raw } => {
                    if model.len() < LockHash::entries_for(CPUS) && !model.contains_key(&lock) {
                        let hops = hash.insert(lock, node(raw));
                        prop_assert!(hops >= 1 && hops <= model.len() as u64 + 1);
                        model.insert(lock, raw);
                        prop_assert_eq!(hash.sleepers(), model.len());
                    }
                }
                Step::Remove { which } if !model.is_empty() => {
                    let mut locks: Vec<usize> = model.keys().copied().collect();
                    locks.sort_unstable();
                    let lock = *which.get(&locks);
                    prop_assert_eq!(hash.remove(lock).raw(), model.remove(&lock).unwrap());
                }
                Step::Remove { .. } => {}
            }
        }
        for (lock, raw) in model {
            prop_assert_eq!(hash.remove(lock).raw(), raw);
        }
        prop_assert_eq!(hash.sleepers(), 0);
    }
}

#[test]
fn a_search_starts_on_a_cache_line_and_sees_every_entry_once() {
    let hash = table();
    for lock in (4..4000).step_by(4) {
        let order: Vec<usize> = hash
            .search(lock)
            .map(|entry| (core::ptr::from_ref(entry).addr() - hash.entries.as_ptr().addr()) / 16)
            .collect();
        assert_eq!(order[0] % super::LINE, 0);
        assert!((0..hash.entries.len()).all(|index| order.contains(&index)));
        assert_eq!(order.len(), hash.entries.len());
    }
}

#[test]
#[should_panic = "full"]
fn a_table_that_is_too_small_says_so() {
    let hash = table();
    for lock in 1..=hash.entries.len() + 1 {
        hash.insert(lock, node((CPUS + 1) << 2));
    }
}

#[test]
#[should_panic = "there is none"]
fn a_lock_that_is_not_there_is_noticed() {
    table().remove(0x1234);
}

#[test]
fn entries_for_is_four_per_cpu_or_more() {
    for (cpus, entries) in [(1, 4), (2, 8), (3, 16), (64, 256), (65, 512)] {
        assert_eq!(LockHash::entries_for(cpus), entries);
    }
}
