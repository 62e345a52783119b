//! The wall clock of one node jumps, and later jumps back.

use crate::chaos::kind::FaultKind;
use crate::chaos::site::Site;
use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;

const JUMP_S: i64 = 3_600;
/// How long it is off, s: the node looks at the offset once a second.
const OFF_S: (f64, f64) = (3.0, 30.0);

pub(super) async fn jump(site: &mut Site, rng: &mut StdRng) -> Result<()> {
    let any = site.draw_node(rng);
    let offset_s = if rng.random_bool(0.5) { JUMP_S } else { -JUMP_S };
    let node = match rng.random_bool(0.5) {
        true => site.busiest_leader().await.unwrap_or(any),
        false => any,
    };
    let time = site.draw_hold(rng, OFF_S.0, OFF_S.1);
    site.begin(FaultKind::ClockJump, format!("node {node} by {offset_s:+} s for {:.1} s", time.as_secs_f64()));
    site.clocks()?.set(node, offset_s)?;
    let passed = site.pass(time).await;
    site.clocks()?.set(node, 0)?;
    passed
}
