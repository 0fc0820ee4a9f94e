//! `grpc.health.v1.Health/Check`, in plaintext as in Kubernetes and Istio.

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::{Probe, Target};

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// SERVING is good.
#[derive(Debug, Clone)]
pub struct Grpc {
    /// Whom.
    pub target: Target,
    /// Name of the service; empty asks for the whole server.
    pub service: String,
}

impl Probe for Grpc {
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let failed = |error: &dyn std::error::Error| {
                format!("{}: {}", self.describe(), crate::explain::cause(error))
            };
            let target = self.target.clone();
            let connector = tower::service_fn(move |_: http::Uri| {
                let target = target.clone();
                async move { target.connect().await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://probe");
            let channel = endpoint.connect_with_connector(connector).await.map_err(|error| failed(&error))?;
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|error| failed(&error))?;
            let request = tonic::Request::new(HealthCheckRequest { service: self.service.clone() });
            let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
            let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
            let answer = client.unary(request, path, codec).await;
            match answer.map(|answer| answer.into_inner().status) {
                Ok(SERVING) => Ok(()),
                Ok(status) => Err(format!("{}: serving status {status}, not SERVING", self.describe())),
                Err(status) => Err(format!("{}: {}", self.describe(), crate::explain::status(&status))),
            }
        })
    }

    fn describe(&self) -> String {
        format!("gRPC health of {:?} at {}", self.service, self.target.address)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use prost::Message;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one call with this status.
    async fn serve_once(listener: TcpListener, status: i32) {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(HealthCheckRequest::decode(&asked[5..]).unwrap().service, "reviews");
            let message = HealthCheckResponse { status }.encode_to_vec();
            let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
            framed.extend(message);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let frames = [Frame::data(Bytes::from(framed)), Frame::trailers(trailers)];
            let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(response.body(body).unwrap())
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // The probe ends the connection.
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }

    #[tokio::test]
    async fn serving_is_good_and_nothing_else() {
        for (status, good) in [(1, true), (2, false), (0, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = Target { address: listener.local_addr().unwrap(), mark: None };
            let probe = Grpc { target, service: "reviews".into() };
            let (result, ()) = tokio::join!(probe.probe(), serve_once(listener, status));
            assert_eq!(result.is_ok(), good, "{result:?}");
        }
    }
}
