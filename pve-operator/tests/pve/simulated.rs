//! The client against the simulator, which keeps state and refuses what PVE refuses.

use futures::future::join_all;
use pve_operator::pve::{
    ApiToken, ClientConfig, ErrorClass, FirstUse, GuestKind, Interfaces, NodeName, Reader, Trust,
    Vmid,
};
use pve_sim::{Agent, Config, FaultKind, FaultRule, Guest, Health, Sim};

fn reader_with(sim: &Sim, trust: Trust) -> Reader {
    let token = ApiToken::parse(&sim.user_id(), &sim.token()).unwrap();
    Reader::new(ClientConfig::new(&sim.url(), token, trust).unwrap()).unwrap()
}

pub(crate) fn reader(sim: &Sim) -> Reader {
    reader_with(sim, Trust::parse(None, Some(&sim.ca_pem()), false, FirstUse::Refuse).unwrap())
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

#[tokio::test]
async fn a_list_has_what_the_cluster_has() {
    let sim = Sim::start(Config::quick().nodes(3).guests(40).seed(7)).unwrap();

    let list = reader(&sim).resources().await.unwrap();

    let mut seen: Vec<_> = list.guests().iter().map(|it| it.vmid.get()).collect();
    let mut there: Vec<_> = sim.guests().iter().map(|it| it.vmid).collect();
    seen.sort_unstable();
    there.sort_unstable();
    assert_eq!(seen, there);
    assert_eq!((list.nodes().len(), list.skipped()), (3, 0));
}

/// A17
#[tokio::test]
async fn a_dead_entry_is_replaced_by_a_node_whose_certificate_was_learned() {
    let sim = Sim::start(Config::quick().nodes(3).guests(5).seed(7)).unwrap();
    let pin = Trust::parse(Some(&sim.fingerprint("pve1")), None, false, FirstUse::Refuse).unwrap();
    let reader = reader_with(&sim, pin);
    reader.cluster_status().await.unwrap();
    let learned = reader.learn_trust().await.unwrap();
    assert!(learned.ca_pem.is_some() && learned.fingerprints.len() == 3);
    sim.set_health("pve1", Health::Off);

    let list = reader.resources().await.unwrap();

    assert!(
        list.nodes().iter().any(|it| it.node == "pve1" && it.status.as_deref() == Some("offline"))
    );
    assert_ne!(reader.address(), sim.url().trim_start_matches("https://"));
}

/// A14
#[tokio::test]
async fn garbage_in_one_element_costs_one() {
    let sim = Sim::start(Config::quick().nodes(2).guests(20).seed(7)).unwrap();
    let reader = reader(&sim);
    let all = reader.resources().await.unwrap();
    let count = |it: &pve_operator::pve::Resources| {
        it.guests().len() + it.nodes().len() + it.storages().len()
    };

    sim.fault(FaultRule::new("/cluster/resources", FaultKind::GarbageElement).times(1));
    let one_less = reader.resources().await.unwrap();
    sim.fault(FaultRule::new("/cluster/resources", FaultKind::LooseTypes).times(1));
    let loose = reader.resources().await.unwrap();

    assert_eq!(one_less.skipped(), 1);
    assert!(count(&one_less) + 1 >= count(&all));
    assert_eq!((loose.skipped(), count(&loose)), (0, count(&all)));
}

#[tokio::test]
async fn no_node_is_asked_more_than_two_things_at_once() {
    let sim = Sim::start(Config::quick().nodes(3).guests(12).seed(7)).unwrap();
    let reader = reader(&sim);
    reader.cluster_status().await.unwrap();
    sim.fault(FaultRule::new("/nodes/", FaultKind::Delay { ms: 20 }));
    sim.reset_counters();

    let details = sim.guests().into_iter().map(|guest| {
        let (kind, reader) = (GuestKind::of(&guest), reader.clone());
        async move { reader.guest_config(kind, &node(&guest.node), vmid(guest.vmid)).await }
    });
    let (details, list) = tokio::join!(join_all(details), reader.resources());

    list.unwrap();
    assert!(details.iter().all(Result::is_ok));
    let counters = sim.counters();
    assert!(counters.most_in_flight <= 5, "{counters:?}");
    assert!(counters.most_in_flight_by_node.values().all(|most| *most <= 2), "{counters:?}");
}

trait KindOf {
    fn of(guest: &Guest) -> GuestKind;
}

impl KindOf for GuestKind {
    fn of(guest: &Guest) -> GuestKind {
        match guest.kind {
            pve_sim::Kind::Qemu => GuestKind::Qemu,
            pve_sim::Kind::Lxc => GuestKind::Lxc,
        }
    }
}

/// A18
#[tokio::test]
async fn a_guests_addresses_come_from_its_agent_as_long_as_it_answers() {
    let sim = Sim::start(Config::quick().nodes(1).guests(0).seed(7)).unwrap();
    sim.add_guest(Guest::qemu(900, "pve1").named("web").running().with_ips(&["10.0.0.5/24"]));
    let reader = reader(&sim);

    let Interfaces::Known(found) = reader.agent_interfaces(&node("pve1"), vmid(900)).await.unwrap()
    else {
        panic!("the agent answers");
    };
    let ips: Vec<_> =
        found.iter().flat_map(|it| &it.addresses).map(|it| it.ip.to_string()).collect();
    assert!(ips.contains(&"10.0.0.5".to_owned()), "{ips:?}");

    sim.set_agent(900, Agent::Absent);
    let silent = reader.agent_interfaces(&node("pve1"), vmid(900)).await.unwrap();
    assert!(matches!(silent, Interfaces::Silent(_)), "{silent:?}");
}

#[tokio::test]
async fn a_revoked_token_is_said_to_be_one() {
    let sim = Sim::start(Config::quick().nodes(1).guests(1).seed(7)).unwrap();
    let reader = reader(&sim);
    reader.version().await.unwrap();

    sim.revoke_token();

    let error = reader.resources().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
    assert!(error.to_string().contains(&sim.user_id()), "{error}");
    assert!(!format!("{error:?}").contains(&sim.token()));
}

#[tokio::test]
async fn a_renewed_certificate_needs_nobody() {
    let sim = Sim::start(Config::quick().nodes(1).guests(1).seed(7)).unwrap();
    let pin = Trust::parse(Some(&sim.fingerprint("pve1")), None, false, FirstUse::Refuse).unwrap();
    let reader = reader_with(&sim, pin.clone());
    let learned = reader.learn_trust().await.unwrap();

    sim.renew_certificate("pve1");

    let stranger = reader_with(&sim, pin.clone());
    assert_eq!(stranger.version().await.unwrap_err().class(), ErrorClass::Tls);
    let knowing = reader_with(&sim, pin);
    knowing.trust_learned(learned).unwrap();
    knowing.version().await.unwrap();
}
