//! Does a worker fit a class of jobs? PanDA's getJob filters (hard filters and label sets).

use crate::class::ClassKey;

/// What a worker says it has. Zero or empty: not stated, not tested.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerOffer {
    /// Cores of its slot.
    pub cores: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Scratch space, MiB.
    pub disk_mib: u32,
    /// Time until it must end, s.
    pub remaining_s: u32,
    /// PanDA's resource type.
    pub resource_type: Box<str>,
    /// Tags it offers, sorted.
    pub tags: Vec<Box<str>>,
    /// Label or label set: user, managed, unified, test, or one label.
    pub label: Box<str>,
    /// Only jobs of this user.
    pub owner: Box<str>,
}

/// The first filter that rejects a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Needs more cores.
    Cores,
    /// Needs more memory.
    Memory,
    /// Needs more scratch space.
    Disk,
    /// Needs more time.
    Time,
    /// Another resource type.
    ResourceType,
    /// Needs a tag that is not offered.
    Tags,
    /// Its label is not in the set.
    Label,
    /// Another user's.
    Owner,
}

/// The labels that a worker's label stands for take this job label.
fn label_in_set(set: &str, label: &str) -> bool {
    match set {
        "" => true,
        "user" => matches!(label, "user" | "panda" | "install"),
        "managed" => matches!(label, "managed" | "test" | "prod_test" | "install"),
        "unified" => matches!(label, "managed" | "test" | "prod_test" | "install" | "user" | "panda"),
        "test" => matches!(label, "prod_test" | "install" | "test"),
        other => other == label,
    }
}

impl WorkerOffer {
    /// The offer as a queue in state `test` sees it: workers get test jobs only.
    pub fn in_test_queue(mut self) -> Self {
        if matches!(&*self.label, "" | "user" | "managed" | "unified") {
            self.label = "test".into();
        }
        self
    }

    /// Tests all filters in PanDA's order; `None`: it fits.
    pub fn mismatch(&self, class: &ClassKey) -> Option<Mismatch> {
        let over = |offer: u32, need: u32| offer != 0 && need > offer;
        if over(self.cores, class.cores) {
            Some(Mismatch::Cores)
        } else if over(self.memory_mib, class.memory_mib) {
            Some(Mismatch::Memory)
        } else if over(self.disk_mib, class.disk_mib) {
            Some(Mismatch::Disk)
        } else if over(self.remaining_s, class.wall_time_s) {
            Some(Mismatch::Time)
        } else if !self.resource_type.is_empty()
            && !class.resource_type.is_empty()
            && *self.resource_type != *class.resource_type
        {
            Some(Mismatch::ResourceType)
        } else if class.tags.iter().any(|tag| self.tags.binary_search_by(|t| (**t).cmp(&**tag)).is_err()) {
            Some(Mismatch::Tags)
        } else if !label_in_set(&self.label, &class.label) {
            Some(Mismatch::Label)
        } else if !self.owner.is_empty() && *self.owner != *class.owner {
            Some(Mismatch::Owner)
        } else {
            None
        }
    }

    /// The class fits.
    pub fn fits(&self, class: &ClassKey) -> bool {
        self.mismatch(class).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> ClassKey {
        ClassKey {
            cores: 8,
            memory_mib: 16_000,
            label: "managed".into(),
            owner: "ann".into(),
            resource_type: "MCORE".into(),
            tags: vec!["gpu".into()],
            ..ClassKey::default()
        }
    }

    #[test]
    fn unstated_offers_are_not_tested_but_tags_are_required() {
        let mut offer = WorkerOffer::default();
        assert_eq!(offer.mismatch(&class()), Some(Mismatch::Tags));
        offer.tags = vec!["cvmfs".into(), "gpu".into()];
        assert_eq!(offer.mismatch(&class()), None);
        offer.cores = 4;
        assert_eq!(offer.mismatch(&class()), Some(Mismatch::Cores));
        offer.cores = 8;
        offer.memory_mib = 15_999;
        assert_eq!(offer.mismatch(&class()), Some(Mismatch::Memory));
        offer.memory_mib = 16_000;
        offer.resource_type = "SCORE".into();
        assert_eq!(offer.mismatch(&class()), Some(Mismatch::ResourceType));
        offer.resource_type = "MCORE".into();
        offer.owner = "bob".into();
        assert_eq!(offer.mismatch(&class()), Some(Mismatch::Owner));
    }

    #[test]
    fn label_sets_are_pandas() {
        for (set, inside, outside) in [
            ("user", &["user", "panda", "install"][..], &["managed", "test"][..]),
            ("managed", &["managed", "test", "prod_test", "install"], &["user", "panda"]),
            ("unified", &["managed", "user", "panda", "prod_test"], &["rc_alrb"]),
            ("test", &["prod_test", "install", "test"], &["managed", "user"]),
            ("rc_alrb", &["rc_alrb"], &["user"]),
        ] {
            assert!(inside.iter().all(|l| label_in_set(set, l)), "{set}");
            assert!(!outside.iter().any(|l| label_in_set(set, l)), "{set}");
        }
    }
}
