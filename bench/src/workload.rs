//! What a replay submits: records of jobs with their sites, users, submit and run times, read from a trace or drawn
//! from a seed.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// One job as recorded (amplified: as many as asked).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Submission, s since the first.
    pub submit_s: u32,
    /// Run time, s.
    pub run_s: u32,
    /// Requested run time, s; 0: none.
    pub wall_s: u32,
    /// Number of the user.
    pub user: u32,
    /// Number of the group.
    pub group: u32,
    /// Position of the site in [`Workload::sites`].
    pub site: u16,
    /// It ended as a failure.
    pub failed: bool,
}

/// Records in the order of their submission.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where it comes from, for people.
    pub name: String,
    /// Names of the sites, each a valid queue name.
    pub sites: Vec<String>,
    /// The records, by `submit_s`.
    pub records: Vec<Record>,
}

impl Workload {
    /// From the first to the last submission, s.
    pub fn span_s(&self) -> u32 {
        self.records.last().map_or(0, |record| record.submit_s)
    }

    /// Longest time in which nothing happens although all goes well, s: a run, or a gap between submissions.
    pub fn quiet_s(&self) -> u32 {
        let runs = self.records.iter().map(|record| record.run_s);
        let pairs = self.records.windows(2);
        let gaps = pairs.map(|pair| pair[1].submit_s - pair[0].submit_s);
        runs.chain(gaps).max().unwrap_or(0)
    }

    /// Keeps the first so many records.
    pub fn truncate(&mut self, records: usize) {
        self.records.truncate(records);
    }

    /// Records of each site.
    pub fn per_site(&self) -> Vec<u64> {
        let mut count = vec![0; self.sites.len()];
        for record in &self.records {
            count[usize::from(record.site)] += 1;
        }
        count
    }
}

/// Shape of the built-in workload. The defaults resemble a grid of 2005: most work at few sites and by few users,
/// more by day than by night, in bursts, run times from seconds to days.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Records.
    pub jobs: u32,
    /// From the first to the last submission, s.
    pub span_s: u32,
    /// Sites; the n-th gets work in proportion to 1 / n^`site_zipf`.
    pub sites: u16,
    /// See `sites`.
    pub site_zipf: f64,
    /// Users, weighted as the sites.
    pub users: u32,
    /// See `users`.
    pub user_zipf: f64,
    /// Groups; a user is always in the same.
    pub groups: u32,
    /// Swing of the submission rate over a day: 0 even, 1 down to nothing at night.
    pub daily: f64,
    /// Mean number of jobs that a user submits at once to a site.
    pub burst: f64,
    /// Median run time, s; run times are log-normal.
    pub run_median_s: f64,
    /// Standard deviation of the logarithm of the run time.
    pub run_sigma: f64,
    /// Longest run time, s.
    pub run_max_s: u32,
    /// Fraction of jobs that fail.
    pub failed: f64,
}

impl Shape {
    /// The default shape with so many jobs, over eleven days.
    pub fn new(jobs: u32) -> Shape {
        Shape {
            jobs,
            span_s: 11 * 86_400,
            sites: 170,
            site_zipf: 1.0,
            users: 216,
            user_zipf: 1.2,
            groups: 28,
            daily: 0.5,
            burst: 5.0,
            run_median_s: 1_300.0,
            run_sigma: 1.9,
            run_max_s: 4 * 86_400,
            failed: 0.02,
        }
    }

    /// Draws the workload: the same seed gives the same records.
    pub fn draw(&self, seed: u64) -> Workload {
        let mut rng = StdRng::seed_from_u64(seed);
        let sites = Zipf::new(u32::from(self.sites), self.site_zipf);
        let users = Zipf::new(self.users, self.user_zipf);
        let mut records = Vec::with_capacity(self.jobs as usize);
        while records.len() < self.jobs as usize {
            let submit_s = self.draw_submit(&mut rng);
            let (site, user) = (sites.draw(&mut rng) as u16, users.draw(&mut rng));
            loop {
                records.push(self.draw_record(submit_s, site, user, &mut rng));
                let last = rng.random_bool(1.0 / self.burst.max(1.0));
                if last || records.len() == self.jobs as usize {
                    break;
                }
            }
        }
        records.sort_by_key(|record| record.submit_s);
        let first = records.first().map_or(0, |record| record.submit_s);
        for record in &mut records {
            record.submit_s -= first;
        }
        Workload {
            name: format!("built-in, {} jobs, seed {seed}", self.jobs),
            sites: (1..=self.sites).map(|n| format!("site-{n:03}")).collect(),
            records,
        }
    }

    fn draw_submit(&self, rng: &mut StdRng) -> u32 {
        loop {
            let at = rng.random_range(0..self.span_s.max(1));
            let day = f64::from(at % 86_400) / 86_400.0;
            // Highest at noon.
            let rate = 1.0 - self.daily * (day * std::f64::consts::TAU).cos();
            if rng.random_bool((rate / (1.0 + self.daily)).clamp(0.0, 1.0)) {
                return at;
            }
        }
    }

    fn draw_record(&self, submit_s: u32, site: u16, user: u32, rng: &mut StdRng) -> Record {
        let run = self.run_median_s * (self.run_sigma * normal(rng)).exp();
        let run_s = (run as u32).clamp(1, self.run_max_s);
        let limits_s = [3_600, 14_400, 43_200, 86_400, 259_200];
        let wall_s = limits_s.into_iter().find(|&limit| run_s <= limit);
        Record {
            submit_s,
            run_s,
            wall_s: wall_s.unwrap_or(self.run_max_s),
            user,
            group: user % self.groups.max(1),
            site,
            failed: rng.random_bool(self.failed),
        }
    }
}

/// A standard normal number (Box and Muller).
fn normal(rng: &mut StdRng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (v * std::f64::consts::TAU).cos()
}

/// Numbers 0..n, the k-th in proportion to 1 / (k + 1)^s.
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(n: u32, s: f64) -> Zipf {
        let mut sum = 0.0;
        let cumulative = (1..=n.max(1)).map(|k| {
            sum += f64::from(k).powf(-s);
            sum
        });
        Zipf { cumulative: cumulative.collect() }
    }

    fn draw(&self, rng: &mut StdRng) -> u32 {
        let total = self.cumulative.last().copied().unwrap_or(1.0);
        let point = rng.random::<f64>() * total;
        let found = self.cumulative.partition_point(|&c| c <= point);
        found.min(self.cumulative.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_jobs() {
        let shape = Shape::new(20_000);
        let (a, b) = (shape.draw(7), shape.draw(7));
        assert_eq!(a.records, b.records);
        assert_ne!(a.records, shape.draw(8).records);
        assert_eq!(a.records.len(), 20_000);
    }

    #[test]
    fn the_shape_is_as_asked() {
        let shape = Shape::new(100_000);
        let workload = shape.draw(1);
        let records = &workload.records;
        assert!(records.is_sorted_by_key(|r| r.submit_s));
        assert_eq!(records[0].submit_s, 0);
        assert!(workload.span_s() > shape.span_s * 9 / 10);

        let per_site = workload.per_site();
        // The first of 170 sites by Zipf has 17.5 % of the work.
        assert!((0.15..0.20).contains(&(per_site[0] as f64 / 1e5)), "{}", per_site[0]);
        assert!(per_site[0] > 20 * per_site[169]);

        let mut runs: Vec<u32> = records.iter().map(|r| r.run_s).collect();
        runs.sort_unstable();
        assert!((1_200..1_400).contains(&runs[50_000]), "{}", runs[50_000]);
        let mean = runs.iter().map(|&r| f64::from(r)).sum::<f64>() / 1e5;
        assert!((5_000.0..9_000.0).contains(&mean), "{mean}");
        assert!(records.iter().all(|r| r.run_s <= r.wall_s));

        let failed = records.iter().filter(|r| r.failed).count();
        assert!((1_700..2_300).contains(&failed), "{failed}");
        let by_day = |from: u32, to: u32| {
            let hours = |r: &&Record| (from..to).contains(&(r.submit_s % 86_400 / 3_600));
            records.iter().filter(hours).count()
        };
        assert!(by_day(9, 15) > 2 * by_day(21, 24) + by_day(0, 3) / 2);
    }

    #[test]
    fn a_user_is_always_in_the_same_group() {
        let workload = Shape::new(5_000).draw(3);
        let mut groups = std::collections::BTreeMap::new();
        for record in &workload.records {
            assert_eq!(*groups.entry(record.user).or_insert(record.group), record.group);
        }
    }
}
