use super::*;

pub(crate) fn owner(cluster: &str) -> wire::Owner {
    wire::Owner { mesh_id: "mesh1".into(), cluster: cluster.into(), revision: "default".into() }
}

/// A service `NAME.default.svc.cluster.local` with this much ready capacity.
pub(crate) fn export(name: &str, ready: u32) -> ServiceExport {
    ServiceExport {
        host: format!("{name}.default.svc.cluster.local").parse().unwrap(),
        name: name.into(),
        namespace: "default".parse().unwrap(),
        ports: vec![ServicePort {
            name: "http".into(),
            number: 9080,
            protocol: Protocol::Http,
            target: TargetPort::Number(9080),
        }],
        addresses: vec!["10.96.0.7".parse().unwrap()],
        location: Location::MeshInternal,
        labels: [("app", name)].into_iter().collect(),
        capacity: vec![Capacity {
            locality: Locality::parse("eu/eu-1/a"),
            network: "net-east".parse().unwrap(),
            labels: [("version", "v1")].into_iter().collect(),
            ready,
            unready: 1,
        }],
        identities: vec!["spiffe://cluster.local/ns/default/sa/app".parse().unwrap()],
    }
}

pub(crate) fn gateway(address: &str) -> NetworkGateway {
    NetworkGateway {
        network: "net-east".parse().unwrap(),
        cluster: "east".parse().unwrap(),
        address: address.into(),
        port: 15443,
    }
}

fn east() -> ClusterId {
    "east".parse().unwrap()
}

#[test]
fn records_survive_the_wire() {
    let sent = export("reviews", 3);
    let record = service(&owner("east"), &sent);
    assert_eq!(read(&record, &owner("east"), &east()), Ok(Item::Service(sent)));
    let sent = super::gateway(&owner("east"), &gateway("192.0.2.1"));
    assert_eq!(read(&sent, &owner("east"), &east()), Ok(Item::Gateway(gateway("192.0.2.1"))));
}

#[test]
fn every_field_moves_the_version_and_order_does_not() {
    let base = export("a", 1);
    let version = |export: &ServiceExport| service(&owner("east"), export).version;
    let changes: [fn(&mut ServiceExport); 17] = [
        |e| e.host = "b.default.svc.cluster.local".parse().unwrap(),
        |e| e.name = "b".into(),
        |e| e.namespace = "other".parse().unwrap(),
        |e| e.ports[0].number = 1,
        |e| e.ports[0].name = "x".into(),
        |e| e.ports[0].protocol = Protocol::Tcp,
        |e| e.ports.clear(),
        |e| e.addresses.clear(),
        |e| e.location = Location::MeshExternal,
        |e| e.labels = e.labels.with([("k", "v")]),
        |e| e.capacity[0].ready = 2,
        |e| e.capacity[0].unready = 2,
        |e| e.capacity[0].network = "x".parse().unwrap(),
        |e| e.capacity[0].locality = Locality::parse("x"),
        |e| e.capacity[0].labels = e.labels.with([("k", "v")]),
        |e| e.capacity.clear(),
        |e| e.identities.clear(),
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut other = base.clone();
        change(&mut other);
        assert_ne!(version(&base), version(&other), "change {at}");
    }
    let mut two = base.clone();
    two.addresses.push("10.96.0.1".parse().unwrap());
    let mut turned = two.clone();
    turned.addresses.reverse();
    assert_eq!(version(&two), version(&turned));
}

#[test]
fn a_record_in_another_clusters_name_is_refused() {
    let record = service(&owner("north"), &export("a", 1));
    let error = read(&record, &owner("east"), &east()).unwrap_err().to_string();
    assert_eq!(error, "the record's owner is mesh1/north/default, this link is with mesh1/east/default");
    let nobody = wire::Record { owner: None, ..record };
    assert!(read(&nobody, &owner("east"), &east()).is_err());
}

#[test]
fn bad_fields_are_named() {
    let good = service(&owner("east"), &export("a", 1));
    let with = |change: &dyn Fn(&mut wire::ServiceExport)| {
        let mut record = good.clone();
        if let Some(Body::Service(body)) = &mut record.body {
            change(body);
            record.key = body.host.clone();
        }
        read(&record, &owner("east"), &east()).unwrap_err().to_string()
    };
    assert!(with(&|body| body.host = "Bad Host".into()).starts_with("host \"Bad Host\""));
    assert_eq!(with(&|body| body.ports[0].number = 70_000), r#"ports.number "70000": must be 1 to 65535"#);
    assert!(with(&|body| body.addresses.push("nowhere".into())).starts_with("addresses \"nowhere\""));
    assert!(with(&|body| body.identities.push("me".into())).starts_with("identities \"me\""));
    let other_key = wire::Record { key: "b".into(), ..good.clone() };
    assert!(read(&other_key, &owner("east"), &east()).is_err());
    let unknown = wire::Record { r#type: 99, ..good };
    assert_eq!(read(&unknown, &owner("east"), &east()), Err(InvalidRecord::Type(99)));
}
