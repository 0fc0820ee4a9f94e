//! Where in a text of YAML or JSON its objects and their fields stand.

use granit_parser::{Event, Parser};

/// Nested deeper than this is no configuration.
const DEPTH: usize = 64;

/// The objects of a text with the lines of all their fields.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    objects: Vec<Placed>,
}

/// What names an object in its own text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    /// Kind.
    pub(crate) kind: &'a str,
    /// Namespace; empty for objects of the cluster.
    pub(crate) namespace: &'a str,
    /// Name.
    pub(crate) name: &'a str,
}

#[derive(Debug)]
struct Placed {
    kind: String,
    /// Empty when the text does not say it.
    namespace: String,
    name: String,
    root: Node,
}

/// A value and the line, from 1, on which it begins.
#[derive(Debug)]
struct Node {
    line: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Text(String),
    /// Members with the line of their names.
    Object(Vec<(String, usize, Node)>),
    List(Vec<Node>),
}

impl Positions {
    /// Reads a text. What cannot be read has no positions; what stands before and after it has.
    pub(crate) fn of(text: &str) -> Self {
        let mut positions = Self::default();
        for (first, part) in isthmus_resources::parse::parts(text) {
            let mut builder = Builder::default();
            for event in Parser::new_from_str(part) {
                let Ok((event, span)) = event else { break };
                if let Some(root) = builder.take(event, first + span.start.line()) {
                    positions.add(root);
                }
            }
        }
        positions
    }

    /// A document's objects: itself, or the items of a list.
    fn add(&mut self, root: Node) {
        let is_list = root.text("kind").is_some_and(|kind| kind.ends_with("List"));
        match root.what {
            What::Object(members) if is_list => {
                let items = members.into_iter().find(|(name, _, _)| name == "items");
                if let Some((_, _, Node { what: What::List(items), .. })) = items {
                    items.into_iter().for_each(|item| self.add(item));
                }
            }
            What::Object(_) => {
                let text = |path: &[&str]| {
                    path.iter().try_fold(&root, |node, step| node.member(step)).and_then(|node| {
                        match &node.what {
                            What::Text(text) => Some(text.clone()),
                            _ => None,
                        }
                    })
                };
                self.objects.push(Placed {
                    kind: text(&["kind"]).unwrap_or_default(),
                    namespace: text(&["metadata", "namespace"]).unwrap_or_default(),
                    name: text(&["metadata", "name"]).unwrap_or_default(),
                    root,
                });
            }
            What::Text(_) | What::List(_) => {}
        }
    }

    /// The line of a field, such as `spec.tcp[0].route`, of the last object of this name; that of the deepest part which is there.
    pub(crate) fn line(&self, header: Header<'_>, field: &str) -> Option<usize> {
        let same = |placed: &&Placed| {
            let silent = placed.namespace.is_empty() && header.namespace == "default";
            placed.kind == header.kind
                && placed.name == header.name
                && (placed.namespace == header.namespace || header.namespace.is_empty() || silent)
        };
        self.objects.iter().rev().find(same).map(|placed| placed.root.line_of(field))
    }
}

impl Node {
    fn member(&self, name: &str) -> Option<&Self> {
        match &self.what {
            What::Object(members) => {
                members.iter().find(|(known, _, _)| known == name).map(|(_, _, node)| node)
            }
            What::Text(_) | What::List(_) => None,
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match &self.member(name)?.what {
            What::Text(text) => Some(text),
            What::Object(_) | What::List(_) => None,
        }
    }

    fn line_of(&self, field: &str) -> usize {
        let steps =
            field.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty());
        let (mut node, mut line) = (self, self.line);
        for step in steps {
            let next = match &node.what {
                What::Object(members) => {
                    members.iter().find(|(name, _, _)| name == step).map(|(_, line, node)| (*line, node))
                }
                What::List(items) => {
                    step.parse().ok().and_then(|at: usize| items.get(at)).map(|item| (item.line, item))
                }
                What::Text(_) => None,
            };
            let Some(found) = next else { break };
            (line, node) = found;
        }
        line
    }
}

/// Makes values of events.
#[derive(Debug, Default)]
struct Builder {
    open: Vec<Open>,
    /// Open ones that are left out, since they are nested too deeply.
    beyond: usize,
}

#[derive(Debug)]
struct Open {
    node: Node,
    /// An object's member whose value comes next.
    name: Option<(String, usize)>,
}

impl Builder {
    /// The whole value, once it is complete.
    fn take(&mut self, event: Event<'_>, line: usize) -> Option<Node> {
        let begins = matches!(event, Event::SequenceStart(..) | Event::MappingStart(..));
        let ends = matches!(event, Event::SequenceEnd | Event::MappingEnd);
        if begins && self.open.len() >= DEPTH {
            self.beyond += 1;
        }
        if self.beyond > 0 {
            self.beyond -= usize::from(ends);
            let left_out = ends && self.beyond == 0;
            return if left_out { self.put(Node { line, what: What::Text(String::new()) }) } else { None };
        }
        let done = match event {
            Event::Scalar(text, ..) => Node { line, what: What::Text(text.into_owned()) },
            Event::Alias(_) => Node { line, what: What::Text(String::new()) },
            Event::SequenceStart(..) => return self.begin(line, What::List(Vec::new())),
            Event::MappingStart(..) => return self.begin(line, What::Object(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => self.open.pop()?.node,
            _ => return None,
        };
        self.put(done)
    }

    fn begin(&mut self, line: usize, what: What) -> Option<Node> {
        self.open.push(Open { node: Node { line, what }, name: None });
        None
    }

    /// Puts a value where it belongs; the outermost one is the answer.
    fn put(&mut self, done: Node) -> Option<Node> {
        let Some(open) = self.open.last_mut() else { return Some(done) };
        match (&mut open.node.what, open.name.take()) {
            (What::List(items), _) => items.push(done),
            (What::Object(members), Some((name, line))) => members.push((name, line, done)),
            (What::Object(_), None) => {
                let name = match done.what {
                    What::Text(text) => text,
                    What::Object(_) | What::List(_) => String::new(),
                };
                open.name = Some((name, done.line));
            }
            (What::Text(_), _) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec:
  ports:
  - name: http
    port: 80
  - {name: tls, port: 443}
---
{not: [yaml
---
kind: List
items:
- kind: Pod
  metadata:
    name: p
    labels:
      app.kubernetes.io/name: x
";

    fn header<'a>(kind: &'a str, namespace: &'a str, name: &'a str) -> Header<'a> {
        Header { kind, namespace, name }
    }

    #[test]
    fn a_field_is_found_on_its_line_and_what_is_absent_on_that_of_its_parent() {
        let positions = Positions::of(TEXT);
        let line = |field| positions.line(header("Service", "shop", "a"), field);
        assert_eq!(line(""), Some(2));
        assert_eq!(line("spec.ports[0].port"), Some(8));
        assert_eq!(line("spec.ports[1].port"), Some(9));
        assert_eq!(line("spec.ports[7].port"), Some(6));
        assert_eq!(line("spec.selector.app"), Some(5));
        assert_eq!(positions.line(header("Service", "other", "a"), ""), None);
    }

    #[test]
    fn a_document_that_is_none_hides_no_other_and_a_list_stands_for_its_items() {
        let positions = Positions::of(TEXT);
        assert_eq!(positions.line(header("Pod", "default", "p"), "metadata.labels"), Some(18));
    }

    #[test]
    fn json_has_lines_too() {
        let text = "{\n \"kind\": \"Pod\",\n \"metadata\": {\"name\": \"p\",\n  \"namespace\": \"n\"}\n}";
        assert_eq!(Positions::of(text).line(header("Pod", "n", "p"), "metadata.namespace"), Some(4));
    }

    #[test]
    fn nesting_without_end_is_cut_off() {
        let text = format!(
            "kind: A\nmetadata: {{name: a}}\ndeep: {}{}\nlast: 1\n",
            "[".repeat(100),
            "]".repeat(100)
        );
        assert_eq!(Positions::of(&text).line(header("A", "", "a"), "last"), Some(4));
    }
}
