//! One document: where it stands, what was good last, and what is wrong with it now.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use isthmus_kube::config_maps::Data;
use isthmus_model::status::DocumentStatus;
use isthmus_resources::ParseError;
use tokio::io::AsyncReadExt as _;

use crate::files;

/// Larger documents are not read: a ConfigMap is no larger either.
const LIMIT: u64 = 1 << 20;

/// A text, none where there is none, or why it cannot be known.
type Found = Result<Option<String>, String>;
/// How a text is read, with what of it is not in force.
type Parse<T> = fn(&str) -> Result<(T, Vec<String>), ParseError>;

/// A document.
pub(super) struct Document<T> {
    /// What it is.
    pub(super) what: &'static str,
    /// Its file; none where it is in the ConfigMap.
    pub(super) file: Option<PathBuf>,
    /// What is in force.
    pub(super) good: T,
    key: &'static str,
    source: String,
    kept: PathBuf,
    parse: Parse<T>,
    /// What was found last, good or bad.
    last: Found,
    error: Option<String>,
    not_in_force: Vec<String>,
}

impl<T: Default> Document<T> {
    /// A document in a file or, without one, in a ConfigMap; with a file in which its last good text is kept. Nothing is read yet.
    pub(super) fn new(
        (what, key): (&'static str, &'static str),
        file: Option<PathBuf>,
        config_map: &str,
        kept: PathBuf,
        parse: Parse<T>,
    ) -> Self {
        let source = match &file {
            Some(file) => file.display().to_string(),
            None => config_map.to_string(),
        };
        Self {
            what,
            file,
            good: T::default(),
            key,
            source,
            kept,
            parse,
            last: Ok(None),
            error: None,
            not_in_force: Vec::new(),
        }
    }

    /// The first reading.
    ///
    /// # Errors
    /// When it is bad and was never good here.
    pub(super) async fn open(&mut self, data: Option<&Data>) -> anyhow::Result<()> {
        let found = self.find(data).await;
        self.take(found);
        let Some(error) = &self.error else { return Ok(()) };
        let kept = files::read(&self.kept)?.with_context(|| {
            format!(
                "{} of {}: {error}; put it right: no good one is known from before",
                self.what, self.source
            )
        })?;
        let kept = String::from_utf8(kept).with_context(|| self.kept.display().to_string())?;
        let (good, not_in_force) =
            (self.parse)(&kept).map_err(|error| anyhow!("{}: {error}", self.kept.display()))?;
        (self.good, self.not_in_force) = (good, not_in_force);
        Ok(())
    }

    /// Looks at its file, if it has one; true when there is something to tell.
    pub(super) async fn look(&mut self) -> bool {
        match &self.file {
            Some(file) => {
                let found = read(file).await;
                found != self.last && self.take(found)
            }
            None => false,
        }
    }

    /// Takes the ConfigMap's word, unless it has a file; true when there is something to tell.
    pub(super) fn said(&mut self, data: Option<&Data>) -> bool {
        let found = Ok(data.and_then(|data| data.get(self.key)).cloned());
        self.file.is_none() && found != self.last && self.take(found)
    }

    /// How it is.
    pub(super) fn report(&self) -> DocumentStatus {
        DocumentStatus {
            name: self.what.to_string(),
            source: self.source.clone(),
            error: self.error.clone(),
            not_in_force: self.not_in_force.clone(),
        }
    }

    async fn find(&self, data: Option<&Data>) -> Found {
        match &self.file {
            Some(file) => read(file).await,
            None => Ok(data.and_then(|data| data.get(self.key)).cloned()),
        }
    }

    fn take(&mut self, found: Found) -> bool {
        self.last = found.clone();
        let read = found.and_then(|text| {
            let text = text.unwrap_or_default();
            let (value, not_in_force) = (self.parse)(&text).map_err(|error| error.to_string())?;
            Ok((text, value, not_in_force))
        });
        match read {
            Ok((text, value, not_in_force)) => {
                (self.good, self.not_in_force, self.error) = (value, not_in_force, None);
                if let Err(error) = files::write(&self.kept, text.as_bytes()) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        document = self.what,
                        "not kept for a start with a bad one"
                    );
                }
            }
            Err(error) => self.error = Some(error),
        }
        true
    }
}

async fn read(file: &Path) -> Found {
    let whole = async {
        let mut text = String::new();
        tokio::fs::File::open(file).await?.take(LIMIT + 1).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    match whole.await {
        Ok(text) if text.len() as u64 > LIMIT => Err(format!("larger than {LIMIT} bytes")),
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_resources::mesh::MeshConfig;

    use super::*;

    fn document(file: &Path, kept: &Path) -> Document<MeshConfig> {
        let file = Some(file.to_path_buf());
        Document::new(("MeshConfig", "mesh"), file, "", kept.to_path_buf(), MeshConfig::read)
    }

    #[tokio::test]
    async fn what_was_good_last_stays_over_a_bad_text_and_over_a_start_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, kept) = (dir.path().join("mesh.yaml"), dir.path().join("kept.yaml"));
        std::fs::write(&file, "{connectTimeout: 3s, novelty: 1}").unwrap();
        let mut one = document(&file, &kept);
        one.open(None).await.unwrap();
        let timeout = |one: &Document<MeshConfig>| one.good.connect_timeout.map(|time| time.0.as_secs());
        assert_eq!((timeout(&one), one.report().not_in_force), (Some(3), vec!["novelty".to_string()]));
        assert!(!one.look().await, "nothing changed");
        std::fs::write(&file, "connectTimeout: soon").unwrap();
        assert!(one.look().await && !one.look().await, "told once");
        let error = one.report().error.unwrap();
        assert!(error.contains("mesh config: connectTimeout: "), "{error}");
        assert_eq!(timeout(&one), Some(3));
        let mut again = document(&file, &kept);
        again.open(None).await.unwrap();
        assert_eq!(timeout(&again), Some(3));
        assert!(again.report().error.is_some());
        std::fs::remove_file(&file).unwrap();
        assert!(again.look().await && timeout(&again) == Some(3), "a file that is gone is no empty one");
        std::fs::write(&file, "connectTimeout: 5s").unwrap();
        assert!(again.look().await);
        assert_eq!((timeout(&again), again.report().error), (Some(5), None));
    }

    #[tokio::test]
    async fn a_first_start_with_a_bad_document_is_refused_by_field() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mesh.yaml");
        std::fs::write(&file, "trustDomain: [x]").unwrap();
        let error = document(&file, &dir.path().join("kept")).open(None).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("mesh.yaml: ") && error.contains("trustDomain"), "{error}");
    }

    #[test]
    fn a_config_map_without_the_key_and_none_at_all_are_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        let mut one = Document::new(("MeshConfig", "mesh"), None, "ConfigMap a/b", kept, MeshConfig::read);
        let data = Data::from([("mesh".to_string(), "connectTimeout: 3s".to_string())]);
        assert!(one.said(Some(&data)) && one.good.connect_timeout.is_some());
        assert!(one.said(Some(&Data::new())) && one.good == MeshConfig::default());
        assert!(!one.said(None), "the same");
    }
}
