//! Rounds in turn: what disturbs the machine for a while disturbs all servers alike.

/// What was measured of each contender, one number a round.
pub(crate) struct Rounds<K> {
    samples: Vec<(K, Vec<f64>)>,
}

impl<K: Copy + PartialEq> Rounds<K> {
    /// Lets `measure` run for each of `contenders` once a round. A first round that does not count
    /// warms caches up.
    pub(crate) fn run(rounds: usize, contenders: &[K], mut measure: impl FnMut(K) -> f64) -> Self {
        let mut samples: Vec<_> = contenders
            .iter()
            .map(|&contender| (contender, Vec::new()))
            .collect();
        for round in 0..=rounds {
            for (contender, numbers) in &mut samples {
                let number = measure(*contender);
                if round > 0 {
                    numbers.push(number);
                }
            }
        }
        Rounds { samples }
    }

    /// The median of `contender`, where it took part.
    pub(crate) fn median(&self, contender: K) -> Option<f64> {
        self.of(contender).map(|numbers| median(numbers.to_vec()))
    }

    /// The median of the rounds' ratios of `contender` to `base`, where both took part.
    ///
    /// Each ratio is of two measurements that were made right after each other.
    pub(crate) fn ratio(&self, contender: K, base: K) -> Option<f64> {
        let pairs = self.of(contender)?.iter().zip(self.of(base)?);
        Some(median(pairs.map(|(number, base)| number / base).collect()))
    }

    /// The numbers of `contender`.
    fn of(&self, contender: K) -> Option<&[f64]> {
        let (_, numbers) = self.samples.iter().find(|(name, _)| *name == contender)?;
        Some(numbers)
    }
}

/// The middle one of `numbers`, or the mean of the two in the middle.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.get(..=middle) {
        Some([.., below, above]) if numbers.len().is_multiple_of(2) => {
            f64::midpoint(*below, *above)
        }
        Some([.., middle]) => *middle,
        _ => f64::NAN,
    }
}
