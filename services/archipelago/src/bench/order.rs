//! Orders in which each number below a bound occurs exactly once.
//!
//! A step multiplies by an odd number, adds another and mixes high bits into low ones: each of the three maps the numbers of so many bits
//! onto themselves one to one. A number that lands at or above the bound is mapped again until it lands below (its walk ends, since it runs
//! in a cycle that began below). Nothing is stored, whatever the bound.

/// Steps of one mapping: enough that no pattern is seen by a disk.
const STEPS: usize = 3;

/// An order of the numbers below a bound.
#[derive(Clone, Debug)]
pub struct Order {
    bound: u64,
    mask: u64,
    shift: u32,
    /// What each step multiplies by and adds; `None` leaves the numbers as they are.
    steps: Option<[(u64, u64); STEPS]>,
}

impl Order {
    /// One after another.
    pub fn sequential(bound: u64) -> Order {
        Order { bound, mask: 0, shift: 0, steps: None }
    }

    /// By chance.
    pub fn random(bound: u64, seed: u64) -> Order {
        let bits = u64::BITS - bound.saturating_sub(1).leading_zeros();
        let mask = if bits == 0 { 0 } else { u64::MAX >> (u64::BITS - bits) };
        let number = |i: usize| mix(seed.wrapping_add(mix(i as u64 + 1)));
        let steps = std::array::from_fn(|i| (number(2 * i) | 1, number(2 * i + 1)));
        Order { bound, mask, shift: bits.div_ceil(2), steps: Some(steps) }
    }

    /// The number at a place below the bound.
    pub fn at(&self, place: u64) -> u64 {
        let Some(steps) = &self.steps else { return place };
        let mut number = place;
        loop {
            for (factor, addend) in steps {
                number = number.wrapping_mul(*factor).wrapping_add(*addend) & self.mask;
                number ^= number.checked_shr(self.shift).unwrap_or(0);
            }
            if number < self.bound {
                return number;
            }
        }
    }
}

/// A number that looks like chance, of another (the finalizer of splitmix64, Steele and others 2014).
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(order: &Order, bound: u64) -> Vec<u64> {
        (0..bound).map(|place| order.at(place)).collect()
    }

    proptest! {
        #[test]
        fn each_number_occurs_exactly_once(bound in 1u64..5000, seed: u64) {
            let mut found = numbers(&Order::random(bound, seed), bound);
            found.sort_unstable();
            prop_assert!(found.into_iter().eq(0..bound));
        }

        #[test]
        fn large_bounds_are_kept(bound in 1u64.., place: u64, seed: u64) {
            let order = Order::random(bound, seed);
            prop_assert!(order.at(place % bound) < bound);
        }
    }

    #[test]
    fn seeds_have_orders_of_their_own_that_are_not_sequential() {
        let [one, again, other] = [1, 1, 2].map(|seed| numbers(&Order::random(1000, seed), 1000));
        assert_eq!(one, again);
        assert_ne!(one, other);
        let neighbours = one.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(neighbours < 50, "{neighbours} of 999 are neighbours");
        assert_eq!(numbers(&Order::sequential(5), 5), [0, 1, 2, 3, 4]);
    }
}
