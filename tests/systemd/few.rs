//! A limit of descriptors that is small beside what the store holds.

use super::common::wait_for;
use super::common::wire::{Node, Registered, register};
use super::load::Nodes;
use super::{hold, local, on_a_host};

/// Nodes come and go, and all of their connections wait in the store until a drawer is emptied: neither the
/// start nor what a user may have in flight may depend on them.
#[test]
fn names_that_came_and_went_cost_no_registration_and_no_start() {
    on_a_host(|service| {
        for (limit, names, gone) in [(1024, 1, 2600), (2048, 500, 2100)] {
            service.drop_in(&format!("[Service]\nLimitNOFILE={limit}\n"));
            service.systemctl("start");
            let nodes = Nodes::register("n", names);
            for number in 0..gone {
                hold(&Node::new(format!("m{number}")));
            }
            for _ in 0..2 {
                let before = service.kill_daemon();
                service.daemon_after(before);
                assert_eq!(nodes.lost(), 0);
                assert!(nodes.are_all());
                assert_eq!(service.property("Result"), "success");
            }
            let said = service.messages();
            assert!(!said.contains("will not survive"), "{said}");
            service.systemctl("stop");
        }
    });
}

/// A limit that was lowered: who has no place any more hears of it, and the daemon starts.
#[test]
fn what_does_not_fit_is_ended_and_said() {
    on_a_host(|service| {
        service.drop_in("[Service]\nLimitNOFILE=2048\n");
        service.systemctl("start");
        let nodes = Nodes::register("n", 700);
        service.drop_in("[Service]\nLimitNOFILE=512\n");
        let before = service.kill_daemon();
        service.daemon_after(before);
        service.wait_for_message("ended the registrations of ");
        let lost = nodes.lost();
        assert!((300..600).contains(&lost), "{lost}");
        assert_eq!(service.property("Result"), "success");
        // The others fill what there is; when they go, there is room again.
        drop(nodes);
        wait_for("room for a name", || {
            let registration = register(local(), &Node::new("api"));
            (registration.end == Registered::Held).then_some(())
        });
    });
}
