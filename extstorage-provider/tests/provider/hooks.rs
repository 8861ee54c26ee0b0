//! What stops an instance from being started or migrated.

use archipelago_core::Mode;

use crate::site::{CNAME, NAME, Site, assert_failed, is_root};

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

/// A pool that cannot be reached stops what may be in it.
fn without_a_pool_that_is_gone(site: &Site) {
    let config = site.path("node-1").join("archipelago.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.lines().filter(|line| !line.starts_with("gone")).collect::<Vec<_>>().join("\n"))
        .unwrap();
}

#[test]
fn an_instance_starts_unless_somebody_else_has_its_disk_open() {
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "1")]);
    without_a_pool_that_is_gone(&site);
    let node = hostname();
    let vars = [
        ("GANETI_INSTANCE_PRIMARY", node.as_str()),
        ("GANETI_INSTANCE_DISK_COUNT", "2"),
        ("GANETI_INSTANCE_DISK0_DEV_TYPE", "ext"),
        ("GANETI_INSTANCE_DISK0_PROVIDER", "other"),
        ("GANETI_INSTANCE_DISK1_DEV_TYPE", "ext"),
        ("GANETI_INSTANCE_DISK1_PROVIDER", "vlmc"),
        ("GANETI_INSTANCE_DISK1_ID", NAME),
        ("GANETI_INSTANCE_DISK1_NAME", CNAME),
    ];
    let free = site.call("archip-lockvolumes", &vars);
    assert_eq!((free.code, free.err.as_str()), (Some(0), ""));
    let store = site.store();
    let open = store.open_volume(CNAME, Mode::ReadWrite).unwrap();
    let refused = site.call("archip-lockvolumes", &vars);
    assert_failed(&refused);
    assert!(refused.err.contains(&format!("process {}", std::process::id())), "{}", refused.err);
    // Other nodes are asked as well, and have nothing to say.
    let elsewhere = [&[("GANETI_INSTANCE_PRIMARY", "another.example.com")], &vars[1..]].concat();
    assert_eq!(site.call("archip-lockvolumes", &elsewhere).code, Some(0));
    open.close().unwrap();
    // Nobody has it, so it cannot be moved.
    let refused = site.call("archip-openvolumes", &vars);
    assert_failed(&refused);
    assert!(refused.err.contains("not attached"), "{}", refused.err);
    let none_of_ours = [&vars[..1], &[("GANETI_INSTANCE_DISK_COUNT", "1")], &vars[2..]].concat();
    assert_eq!(site.call("archip-openvolumes", &none_of_ours).code, Some(0));
    for bad in ["", "-1", "17", "99999999999999999999", "x"] {
        let vars = [&vars[..1], &[("GANETI_INSTANCE_DISK_COUNT", bad)]].concat();
        assert_failed(&site.call("archip-openvolumes", &vars));
    }
}

#[test]
fn an_instance_is_moved_whose_node_has_its_disk() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    without_a_pool_that_is_gone(&site);
    site.ok("create", &[("VOL_SIZE", "1")]);
    site.ok("attach", &[]);
    let node = hostname();
    let vars = [
        ("GANETI_INSTANCE_PRIMARY", node.as_str()),
        ("GANETI_INSTANCE_DISK_COUNT", "1"),
        ("GANETI_INSTANCE_DISK0_DEV_TYPE", "ext"),
        ("GANETI_INSTANCE_DISK0_PROVIDER", "archipelago"),
        ("GANETI_INSTANCE_DISK0_ID", NAME),
        ("GANETI_INSTANCE_DISK0_NAME", CNAME),
    ];
    for hook in ["archip-openvolumes", "archip-lockvolumes"] {
        let may = site.call(hook, &vars);
        assert_eq!((may.code, may.err.as_str()), (Some(0), ""), "{hook}");
    }
    site.ok("close", &[]);
    let refused = site.call("archip-openvolumes", &vars);
    assert_failed(&refused);
    assert!(refused.err.contains("does not have it"), "{}", refused.err);
    // Putting right what is left of a move is not one.
    let cleanup = [&vars[..], &[("GANETI_MIGRATE_CLEANUP", "True")]].concat();
    assert_eq!(site.call("archip-openvolumes", &cleanup).code, Some(0));
    // To be started it only has to be free.
    assert_eq!(site.call("archip-lockvolumes", &vars).code, Some(0));
}
