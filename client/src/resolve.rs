//! Endpoints: single servers, and names of services that resolve to many.
//!
//! `dns+http://forebay:50051` is a server at each address that the name has, as with a headless
//! Service of Kubernetes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Uri;

use crate::connect::Server;
use crate::error::Cause;
use crate::{Error, Options};

const DNS: &str = "dns+";

/// The endpoint without the mark of a service's name.
pub(crate) fn plain(endpoint: &str) -> &str {
    endpoint.strip_prefix(DNS).unwrap_or(endpoint)
}

/// What an endpoint stands for.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// One server, which may itself be a name that the system resolves at each connection.
    Server(Box<Server>),
    /// All servers at the addresses of a name.
    Service(Service),
}

/// A name with many addresses.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// As the user gave it.
    pub(crate) name: String,
    scheme: String,
    host: String,
    port: u16,
}

impl Target {
    pub(crate) fn parse(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let url = options.access.url(plain(endpoint));
        let wrong = |why: &dyn std::fmt::Display| {
            Error::Options(format!(
                "endpoint {endpoint:?}: {why}: give http://host:port or https://host:port, or \
                 dns+http://name:port for every address of a name"
            ))
        };
        let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
        let (Some(scheme @ ("http" | "https")), Some(host), Some(port)) =
            (uri.scheme_str(), uri.host(), uri.port_u16())
        else {
            return Err(wrong(&"not http or https with a port"));
        };
        if endpoint.starts_with(DNS) {
            let (scheme, host) = (scheme.to_owned(), host.to_owned());
            return Ok(Self::Service(Service { name: endpoint.to_owned(), scheme, host, port }));
        }
        Ok(Self::Server(Box::new(Server::new(endpoint, uri, None, options))))
    }
}

impl Service {
    /// The servers that the name stands for. Of a name with addresses of both families those of
    /// IPv4 are taken, because they lead to the same servers.
    pub(crate) async fn servers(&self, options: &Options) -> Result<Vec<Server>, Cause> {
        let Self { name, scheme, host, port } = self;
        let failed = |why: String| Cause::Resolve { name: name.clone(), why };
        let within = options.timeouts.connect;
        let found = options.network.lookup(format!("{host}:{port}"));
        let found = tokio::time::timeout(within, found).await;
        let found = found.map_err(|_elapsed| failed(format!("no answer in {within:?}")))?;
        let found = found.map_err(|error| failed(error.to_string()))?;
        let found: BTreeSet<_> = found.into_iter().collect();
        if found.is_empty() {
            return Err(failed("it has no address".into()));
        }
        let any_v4 = found.iter().any(SocketAddr::is_ipv4);
        let of_family = found.into_iter().filter(|address| address.is_ipv4() == any_v4);
        let server = |address: SocketAddr| {
            let url = format!("{scheme}://{address}");
            let uri = url.parse().expect("a scheme and an address make a URL");
            Server::new(&url, uri, Some(host), options)
        };
        Ok(of_family.map(server).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Network;

    async fn names(endpoint: &str, found: &'static [&'static str]) -> Result<Vec<String>, String> {
        let mut options = Options::new([endpoint]);
        options.network = Network::default().resolver(move |host| async move {
            assert_eq!(host, "forebay:50051");
            Ok(found.iter().map(|address| address.parse().unwrap()).collect())
        });
        let target = Target::parse(endpoint, &options).unwrap();
        let Target::Service(service) = target else { return Err("one server".into()) };
        let servers = service.servers(&options).await.map_err(|cause| cause.to_string())?;
        Ok(servers.into_iter().map(|server| server.name).collect())
    }

    #[tokio::test]
    async fn a_name_stands_for_a_server_at_each_of_its_addresses() {
        let two = &["10.0.0.2:50051", "10.0.0.1:50051", "10.0.0.2:50051", "[fd00::1]:50051"];
        let expected = ["http://10.0.0.1:50051", "http://10.0.0.2:50051"].map(str::to_owned);
        assert_eq!(names("dns+http://forebay:50051", two).await.unwrap(), expected);
        assert_eq!(names("dns+forebay:50051", two).await.unwrap(), expected);
        let of_v6 = names("dns+https://forebay:50051", &["[fd00::1]:50051"]).await;
        assert_eq!(of_v6.unwrap(), ["https://[fd00::1]:50051"]);
        let none = names("dns+http://forebay:50051", &[]).await.unwrap_err();
        assert_eq!(
            none,
            "dns+http://forebay:50051 does not resolve to a server: it has no address"
        );
        assert_eq!(names("http://forebay:50051", &[]).await.unwrap_err(), "one server");
    }
}
