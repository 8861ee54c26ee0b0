//! Two servers that stand by for one volume, as two nodes have them while a virtual machine moves: over NBD, with the command that tells them.
#![allow(missing_docs, clippy::unwrap_used)]

use archipelago_service::nbd::wire::command;
use serde_json::Value;

#[path = "support/raw_client.rs"]
mod raw_client;
#[allow(dead_code)]
#[path = "served_volume/site.rs"]
mod site;

use site::{Client, MIB, Server, Site};

const DISK: &str = "disk-1";

/// Two servers of one store, which say that they are ready.
struct Nodes {
    site: Site,
    servers: [Server; 2],
    /// Their registrations.
    processes: [String; 2],
}

impl Nodes {
    fn start(sharing: &str) -> Nodes {
        let site = Site::new();
        site.ok(&["create", DISK, "--size", "8M"]);
        let servers = ["nbd-0", "nbd-1"].map(|socket| {
            let mut server = site.start_with(socket, &[sharing]);
            assert!(server.wait_until_ready().contains("ready"), "{}", site.log());
            server
        });
        let all = site.json(&["standby", DISK]);
        let process = |server: &Server| {
            let pid = Value::from(server.id());
            let found = all.as_array().unwrap().iter().find(|entry| entry["server"]["pid"] == pid).unwrap();
            found["server"]["process"].as_str().unwrap().to_string()
        };
        let processes = [process(&servers[0]), process(&servers[1])];
        Nodes { site, servers, processes }
    }

    fn connect(&self, node: usize) -> Client {
        self.site.connect_at(&format!("nbd-{node}"), DISK).unwrap()
    }

    /// What a node does about the other, and whether it has the volume.
    fn state(&self, node: usize) -> (String, bool) {
        let all = self.site.json(&["standby", DISK, "--process", &self.processes[node]]);
        let state = &all[0]["state"];
        (state["sharing"].as_str().unwrap().to_string(), state["owns"].as_bool().unwrap())
    }

    #[track_caller]
    fn tell(&self, node: usize, order: &str) {
        self.site.ok(&["standby", DISK, order, "--process", &self.processes[node]]);
    }
}

fn fails(client: &mut Client, order: u16) -> bool {
    client.0.request(order, 0, 1, 0, 4096);
    client.0.simple().0 != 0
}

#[test]
fn a_disk_moves_from_server_to_server_in_the_order_of_a_live_migration() {
    let nodes = Nodes::start("--standby=closed");
    nodes.tell(0, "--exclusive");
    assert_eq!(nodes.state(0), ("exclusive".into(), true), "without a client too");
    let mut source = nodes.connect(0);
    source.write(0, &[1; 4096]);
    // The target is closed before it is opened, and a client that it has is refused, or looks at the size.
    nodes.tell(1, "--closed");
    let mut target = nodes.connect(1);
    assert!(fails(&mut target, command::READ));
    source.write(4096, &[2; 4096]);
    nodes.tell(0, "--shared");
    nodes.tell(1, "--shared");
    // Both use it for a while.
    assert_eq!(target.read(0, 8192), [[1; 4096], [2; 4096]].concat());
    assert_eq!((nodes.state(0), nodes.state(1)), (("shared".into(), false), ("shared".into(), true)));
    source.write(0, &[3; 4096]);
    assert_eq!(nodes.state(0), ("shared".into(), true));
    nodes.site.ok(&["resize", DISK, "9M"]);
    source.flush();
    nodes.tell(0, "--closed");
    source.flush();
    nodes.tell(1, "--exclusive");
    assert_eq!(target.read(0, 8192), [[3; 4096], [2; 4096]].concat());
    target.write(8 * MIB, &[4; 4096]);
    assert!(fails(&mut source, command::READ));
    drop(source);
    drop(target);
    // It is kept, with nobody connected.
    assert_eq!(nodes.state(1), ("exclusive".into(), true));
    assert!(nodes.site.fails(5, &["export", DISK, &nodes.site.text("out")]).contains("open elsewhere"));
    nodes.tell(1, "--closed");
    nodes.site.ok(&["export", DISK, &nodes.site.text("out")]);
    assert_eq!(std::fs::read(nodes.site.path("out")).unwrap()[8 * MIB as usize..][..4096], [4; 4096]);
}

#[test]
fn a_server_that_is_killed_leaves_what_it_answered_to_the_other() {
    let mut nodes = Nodes::start("--standby");
    let (mut source, mut target) = (nodes.connect(0), nodes.connect(1));
    source.write(0, &[7; 4096]);
    nodes.servers[0].kill();
    assert_eq!(target.read(0, 4096), [7; 4096]);
    assert_eq!(nodes.state(1), ("shared".into(), true));
}

#[test]
fn orders_need_a_server_that_stands_by() {
    let site = Site::new();
    site.ok(&["create", DISK, "--size", "8M"]);
    let _plain = site.serve();
    assert!(site.fails(1, &["standby", DISK, "--shared"]).contains("--standby"));
    assert_eq!(site.json(&["standby", DISK]), Value::Array(vec![]));
    let nodes = Nodes::start("--standby");
    assert!(nodes.site.fails(1, &["standby", DISK, "--shared"]).contains("--process"));
    assert_eq!(nodes.site.run(&["standby", DISK, "--shared", "--closed"]).status.code(), Some(2));
}
