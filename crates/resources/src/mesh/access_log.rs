//! How Envoys log connections.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::MeshConfig;

/// Whether lines of the access log are text or JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Encoding {
    #[default]
    Text,
    Json,
}

/// A line of text, as Istio has it where nothing is said.
pub const DEFAULT_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% ",
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" ",
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" ",
    "\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" ",
    "%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// A line of JSON, as Istio has it where nothing is said: members and formats.
pub const DEFAULT_JSON: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

impl MeshConfig {
    /// The members of a line of JSON; none where lines are text.
    ///
    /// # Errors
    /// When the format is no JSON object.
    pub fn access_log_labels(&self) -> Result<Option<Map<String, Value>>, serde_json::Error> {
        if self.access_log_encoding == Encoding::Text {
            return Ok(None);
        }
        if self.access_log_format.is_empty() {
            let all = DEFAULT_JSON.iter().map(|(name, format)| ((*name).to_string(), Value::from(*format)));
            return Ok(Some(all.collect()));
        }
        serde_json::from_str(&self.access_log_format).map(Some)
    }

    /// A line of text.
    #[must_use]
    pub fn access_log_text(&self) -> String {
        match self.access_log_format.as_str() {
            "" => DEFAULT_TEXT.to_string(),
            own if own.ends_with('\n') => own.to_string(),
            own => format!("{own}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_one_line_of_text_or_an_object() {
        let read = |text: &str| MeshConfig::read(text).map(|(config, _)| config);
        let text = read("{accessLogFile: /dev/stdout, accessLogFormat: '%DURATION%'}").unwrap();
        assert_eq!(
            (text.access_log_text().as_str(), text.access_log_labels().unwrap()),
            ("%DURATION%\n", None)
        );
        assert!(read("{}").unwrap().access_log_text().ends_with("%ROUTE_NAME%\n"));
        let json = read("{accessLogEncoding: JSON, accessLogFormat: '{\"a\": \"%DURATION%\"}'}").unwrap();
        assert_eq!(json.access_log_labels().unwrap().unwrap()["a"], "%DURATION%");
        let all = read("accessLogEncoding: JSON").unwrap().access_log_labels().unwrap().unwrap();
        assert_eq!(all.len(), DEFAULT_JSON.len());
        let bad = read("{accessLogEncoding: JSON, accessLogFormat: '%DURATION%'}").unwrap_err().to_string();
        assert!(bad.starts_with("mesh config: accessLogFormat: not a JSON object"), "{bad}");
    }
}
