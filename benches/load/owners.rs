//! What it costs to ask whose a registration is: a node that registers and leaves again, with a list of
//! users and without.

use crate::Plan;
use crate::client;
use crate::report::{Report, Row, Target};
use crate::rounds::Rounds;
use crate::server::{Kind, Launcher};

/// The settings that are compared. Root, who runs this, may always register.
const SETTINGS: [&str; 2] = ["", "[names]\nusers = []\nhold = \"1s\"\n"];

/// Measures it.
pub(crate) fn measure(launcher: &Launcher, plan: &Plan, report: &mut Report) {
    let requests = plan.requests / 4;
    let servers = SETTINGS.map(|settings| {
        let mut server = launcher.exec(Kind::Ours, settings, &[]);
        server.wait_until_ready();
        server
    });
    let rounds = Rounds::run(plan.rounds, &[0_usize, 1], |which| {
        let server = servers.get(which).expect("each has its server");
        let cpu = server.cpu_during(|| {
            for index in 0..requests {
                let name = format!("guest{}", index % 256);
                client::register(server.address, &name).expect("epmd registers");
            }
        });
        cpu.as_secs_f64() * 1e6 / requests as f64
    });
    let what = "CPU to register and leave, whose it is asked and held";
    let mut row = Row::new(what, "us");
    if let Some(median) = rounds.median(1) {
        row = row.value(Kind::Ours, median);
    }
    if let Some(ratio) = rounds.ratio(1, 0) {
        row = row.check("to not asked", ratio, Some(Target::AtMost(1.15)));
    }
    report.add(row);
}
