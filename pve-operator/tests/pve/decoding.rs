//! The tolerant reading of `/cluster/resources`.

use bytes::Bytes;
use proptest::prelude::*;
use pve_operator::pve::{ErrorClass, GuestKind, Resources};

fn parse(body: &str) -> Resources {
    Resources::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

fn guest(vmid: u32) -> String {
    format!(
        r#"{{"id":"qemu/{vmid}","vmid":{vmid},"node":"pve1","type":"qemu","name":"vm-{vmid}","status":"running","template":0,"cpu":0.01,"maxcpu":2}}"#
    )
}

fn vmids(resources: &Resources) -> Vec<u32> {
    resources.guests().iter().map(|guest| guest.vmid.get()).collect()
}

/// A14
#[test]
fn loose_types_are_read_and_an_element_without_id_costs_only_itself() {
    let body = r#"{"data":[
        {"id":"qemu/100","vmid":"100","node":"pve1","type":"qemu","maxcpu":"2","template":"","mem":"1e3","name":7},
        {"vmid":101,"node":"pve1","type":"qemu","name":"no id"},
        {"id":"lxc/102","vmid":102.0,"node":"pve1","type":"lxc","template":"1","name":"a\u0062c","maxmem":-1,"tags":["x"]},
        {"id":"node/pve1","node":"pve1","type":"node","status":"online","maxcpu":"8"},
        {"id":"storage/pve1/local","node":"pve1","storage":"local","type":"storage","shared":"0","disk":null},
        {"id":"thing/1","type":"thing","node":"pve1"},
        {"id":"/pool/x","type":"pool","pool":"x"}
    ],"total":7}"#;

    let it = parse(body);

    assert_eq!(it.skipped(), 1);
    assert_eq!(vmids(&it), [100, 102]);
    let [vm, container] = it.guests() else { panic!("two guests") };
    assert_eq!(
        (vm.kind, vm.maxcpu, vm.template, vm.mem),
        (GuestKind::Qemu, Some(2.0), Some(false), Some(1000))
    );
    assert_eq!(vm.name.as_deref(), Some("7"));
    assert_eq!((container.kind, container.template), (GuestKind::Lxc, Some(true)));
    assert_eq!(container.name.as_deref(), Some("abc"));
    assert_eq!((container.maxmem, container.tags.as_deref()), (None, None));
    assert_eq!(it.nodes()[0].maxcpu, Some(8.0));
    assert_eq!((it.storages()[0].shared, it.storages()[0].disk), (Some(false), None));
}

#[test]
fn an_element_that_is_not_even_json_costs_only_itself() {
    for garbage in ["oops", "{\"id\":}", "{\"a\":1e999}", "\"\\ud800\"", "{\"a\" 1}", "[1,", "]"] {
        let body = format!(r#"{{"data":[{},{garbage},{}]}}"#, guest(100), guest(101));
        let read = Resources::parse(Bytes::from(body));

        if garbage.ends_with([',', ']']) {
            assert!(read.is_err(), "brackets that do not match leave no list to trust: {garbage}");
        } else {
            let it = read.unwrap();
            assert_eq!((vmids(&it), it.skipped()), (vec![100, 101], 1), "{garbage}");
        }
    }
}

#[test]
fn a_byte_that_is_not_utf8_costs_nothing_else() {
    let mut body = format!(r#"{{"data":[{},{}]}}"#, guest(100), guest(101)).into_bytes();
    let at = body.windows(6).position(|it| it == b"vm-100").unwrap();
    body[at] = 0xff;

    let it = Resources::parse(body.into()).unwrap();

    assert_eq!((vmids(&it), it.skipped()), (vec![100, 101], 0));
}

#[test]
fn a_list_that_is_not_whole_is_an_error_and_never_a_short_list() {
    let whole = format!(r#"{{"data":[{},{}]}}"#, guest(100), guest(101));
    for end in 0..whole.len() {
        let cut = Resources::parse(Bytes::copy_from_slice(&whole.as_bytes()[..end]));

        assert_eq!(cut.unwrap_err().class(), ErrorClass::Decode, "cut at {end}");
    }
    for body in [r#"{"data":null}"#, r#"{"data":{}}"#, "{}", "[]", "<html>", r#"{"data":7}"#] {
        assert!(Resources::parse(Bytes::from(body)).is_err(), "{body}");
    }
    assert_eq!(vmids(&parse(r#"{"data":[]}"#)), [0; 0]);
}

#[test]
fn rows_borrow_from_the_body() {
    use std::borrow::Cow;
    let it = parse(&format!(r#"{{"data":[{}]}}"#, guest(100)));

    assert!(matches!(it.guests()[0].name, Some(Cow::Borrowed("vm-100"))));
    assert!(matches!(it.guests()[0].node, Cow::Borrowed("pve1")));
}

/// Any JSON value.
fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "qemu|lxc|node|storage|[0-9]{1,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("type|id|vmid|node|name|[a-z]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// One element turned into anything never costs another one, and is either read or counted.
    #[test]
    fn any_element_replaced_by_any_json_loses_no_other(
        count in 1_u32..12,
        at in any::<prop::sample::Index>(),
        key in "type|id|vmid|node|name|status|template|maxcpu|cpu|x",
        value in json(),
        whole in any::<bool>(),
    ) {
        let at = at.index(count as usize);
        let mut elements: Vec<serde_json::Value> =
            (0..count).map(|n| serde_json::from_str(&guest(100 + n)).unwrap()).collect();
        if whole { elements[at] = value } else { elements[at][&key] = value }
        let body = serde_json::json!({ "data": elements }).to_string();

        let it = parse(&body);

        let others: Vec<_> = (0..count).filter(|n| *n as usize != at).map(|n| 100 + n).collect();
        let read = vmids(&it);
        prop_assert!(others.iter().all(|vmid| read.contains(vmid)), "{others:?} of {read:?}");
        prop_assert!(it.skipped() <= 1 && read.len() <= count as usize);
    }

    /// The same for an element that is not JSON, as long as brackets, quotes and commas are left.
    #[test]
    fn any_element_with_garbage_in_it_loses_no_other(
        count in 1_u32..12,
        at in any::<prop::sample::Index>(),
        garbage in "[^\\[\\]{}\",\\\\]{1,8}",
        place in any::<prop::sample::Index>(),
    ) {
        let at = at.index(count as usize);
        let mut elements: Vec<_> = (0..count).map(|n| guest(100 + n)).collect();
        let element = &elements[at];
        // Not inside an escape; there are none.
        let place = place.index(element.len());
        elements[at] = format!("{}{garbage}{}", &element[..place], &element[place..]);
        let body = format!("{{\"data\":[{}]}}", elements.join(","));

        let it = parse(&body);

        let others: Vec<_> = (0..count).filter(|n| *n as usize != at).map(|n| 100 + n).collect();
        let read = vmids(&it);
        prop_assert!(others.iter().all(|vmid| read.contains(vmid)), "{others:?} of {read:?}");
        prop_assert!(it.skipped() <= 1);
    }
}
