//! Who sees objects that do not say it themselves.

use std::sync::Arc;

use super::MeshConfig;
use crate::object::Object;

const SERVICE_EXPORT_TO: &str = "networking.istio.io/exportTo";

impl MeshConfig {
    /// The object as others see it: one that does not say who sees it has the mesh's default.
    #[must_use]
    pub fn visible(&self, object: &Object) -> Object {
        let mut object = object.clone();
        self.make_visible(&mut object);
        object
    }

    /// Gives an object that does not say who sees it the mesh's default.
    pub fn make_visible(&self, object: &mut Object) {
        match object {
            Object::Service(service)
                if !self.default_service_export_to.is_empty()
                    && service.meta.annotations.get(SERVICE_EXPORT_TO).is_none() =>
            {
                let all = self.default_service_export_to.join(",");
                let meta = &mut Arc::make_mut(service).meta;
                meta.annotations = meta.annotations.with([(SERVICE_EXPORT_TO, all)]);
            }
            Object::ServiceEntry(entry) if entry.spec.export_to.is_empty() => {
                set(&self.default_service_export_to, |to| Arc::make_mut(entry).spec.export_to = to);
            }
            Object::VirtualService(service) if service.spec.export_to.is_empty() => {
                set(&self.default_virtual_service_export_to, |to| Arc::make_mut(service).spec.export_to = to);
            }
            Object::DestinationRule(rule) if rule.spec.export_to.is_empty() => {
                set(&self.default_destination_rule_export_to, |to| Arc::make_mut(rule).spec.export_to = to);
            }
            _ => {}
        }
    }
}

fn set(default: &[String], put: impl FnOnce(Vec<String>)) {
    if !default.is_empty() {
        put(default.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_that_say_nothing_get_the_default() {
        let (mesh, _) =
            MeshConfig::read("{defaultServiceExportTo: ['.'], defaultDestinationRuleExportTo: [a]}").unwrap();
        let read = |text: &str| mesh.visible(&crate::parse_yaml(text).remove(0).unwrap());
        let Object::Service(service) = read("{apiVersion: v1, kind: Service, metadata: {name: a}}") else {
            panic!()
        };
        assert_eq!(service.meta.annotations.get(SERVICE_EXPORT_TO), Some("."));
        let rule = |to: &str| {
            let text = format!(
                "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: a}}, spec: {{host: x{to}}}}}"
            );
            let Object::DestinationRule(rule) = read(&text) else { panic!() };
            rule.spec.export_to.clone()
        };
        assert_eq!(rule(""), ["a"]);
        assert_eq!(rule(", exportTo: ['*']"), ["*"]);
    }
}
