//! exportTo that leads nowhere.

use isthmus_resources::Object;

use super::security::namespace_known;
use crate::analyze::code;
use crate::analyze::report::Report;
use crate::analyze::world::World;

pub(super) fn check(world: &World, report: &mut Report) {
    for item in &world.items {
        let list = match &item.object {
            Object::VirtualService(one) => &one.spec.export_to,
            Object::DestinationRule(one) => &one.spec.export_to,
            Object::ServiceEntry(one) => &one.spec.export_to,
            _ => continue,
        };
        for (at, to) in list.iter().enumerate().filter(|(_, to)| !matches!(to.as_str(), "*" | "." | "~")) {
            if !namespace_known(world, report, to) {
                let message = format!("namespace {to:?} is not found");
                report.add(
                    &code::UNKNOWN_EXPORT,
                    item,
                    format!("spec.exportTo[{at}]"),
                    message,
                    "create it, or correct the name",
                );
            }
        }
    }
}
