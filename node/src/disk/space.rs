//! How full a disk is, with a distance between getting worse and getting better, so that it does not swing.

/// How full a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// All is taken.
    Enough = 0,
    /// Submissions are refused, leaderships given away.
    Low = 1,
    /// The reserve is given up, too.
    Full = 2,
}

impl Level {
    /// The level with this number; `Full` if there is none.
    pub fn from_number(number: u8) -> Level {
        match number {
            0 => Level::Enough,
            1 => Level::Low,
            _ => Level::Full,
        }
    }
}

/// Where the levels begin, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Less free: low.
    pub low: u64,
    /// Of the reserve; less free: full. At most `low`.
    pub reserve: u64,
}

impl Limits {
    /// The level after `before` with so many bytes free. From full it goes to enough at once, when there is space for
    /// the reserve as well.
    pub fn level(&self, before: Level, free: u64) -> Level {
        let enough = self.low + self.low / 8;
        match before {
            Level::Full if free >= enough + self.reserve => Level::Enough,
            Level::Full => Level::Full,
            _ if free < self.reserve => Level::Full,
            Level::Low if free >= enough => Level::Enough,
            Level::Low => Level::Low,
            Level::Enough if free < self.low => Level::Low,
            Level::Enough => Level::Enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_change_with_a_distance() {
        let limits = Limits { low: 80, reserve: 20 };
        let mut level = Level::Enough;
        let free = [80, 79, 20, 89, 90, 79, 19, 40, 109, 110, 80, 10, 110];
        let levels = free.map(|free| {
            level = limits.level(level, free);
            level as u8
        });
        assert_eq!(levels, [0, 1, 1, 1, 0, 1, 2, 2, 2, 0, 0, 2, 0]);
        assert_eq!([0, 1, 2].map(|n| Level::from_number(n) as u8), [0, 1, 2]);
    }
}
