//! One fault from its beginning until its cause is gone: it draws what it needs, says so with `Site::begin`, does it,
//! and undoes what `Site::heal` does not. To add a kind, see `kind.rs`.

mod clock;
mod disk;
mod kill;
mod members;
mod network;
mod rolling;
mod stop;
mod sync;

use super::kind::FaultKind;
use super::site::Site;
use anyhow::Result;
use rand::rngs::StdRng;

/// Makes one fault of this kind. Afterwards nodes may be down and lines bad: [`Site::heal`] is due.
///
/// # Errors
/// When it cannot be made; not when the cluster takes it badly, which is noted as a problem.
pub(super) async fn make(kind: FaultKind, site: &mut Site, rng: &mut StdRng) -> Result<()> {
    match kind {
        FaultKind::KillOne => kill::one(site, rng).await,
        FaultKind::KillLeader => kill::leader(site, rng).await,
        FaultKind::KillMajority => kill::majority(site, rng).await,
        FaultKind::KillAll => kill::all(site, rng).await,
        FaultKind::RollingRestart => rolling::restart(site).await,
        FaultKind::ReplaceReplica => members::replace(site, rng).await,
        FaultKind::Drain => members::drain(site, rng).await,
        FaultKind::Stop => stop::stop(site, rng).await,
        FaultKind::Partition => network::partition(site, rng).await,
        FaultKind::PartitionOneWay => network::one_way(site, rng).await,
        FaultKind::PartitionLink => network::link(site, rng).await,
        FaultKind::SlowLink => network::slow(site, rng).await,
        FaultKind::ResetLinks => network::reset(site, rng).await,
        FaultKind::SlowSync => sync::slow(site, rng).await,
        FaultKind::SyncError => sync::error(site, rng).await,
        FaultKind::DiskFull => disk::full(site, rng).await,
        FaultKind::ClockJump => clock::jump(site, rng).await,
    }
}
