//! Endpoints: single servers, and names of services that resolve to many.
//!
//! `dns+http://forebay:50051` stands for one server per address of the name, as of a headless Service of
//! Kubernetes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Uri;

use crate::error::{Cause, Error};
use crate::options::Options;
use crate::wire::connect::{Server, UNIX};

const DNS: &str = "dns+";

/// The meaning of an endpoint.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// One server. Its host may be a name, which the system resolves at each connection.
    Server(Box<Server>),
    /// One server per address of a name.
    Service(Service),
}

/// A name with several addresses.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// The endpoint as the user wrote it.
    pub(crate) name: String,
    scheme: String,
    host: String,
    port: u16,
}

impl Target {
    pub(crate) fn parse(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let server = |server| Self::Server(Box::new(server));
        if let Some(path) = endpoint.strip_prefix(UNIX) {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Server::at_socket(endpoint, path, options).map(server).ok_or_else(|| {
                Error::Options(format!(
                    "invalid endpoint {endpoint:?}: expected unix:PATH, with the path of the server's socket, which \
                     has 1 to 107 bytes"
                ))
            });
        }
        let invalid = |why: &dyn std::fmt::Display| {
            Error::Options(format!(
                "invalid endpoint {endpoint:?}: {why}: expected http://host:port or \
                 https://host:port, dns+http://name:port for every address of a name, or unix:PATH"
            ))
        };
        let url = options.access.url(endpoint.strip_prefix(DNS).unwrap_or(endpoint));
        let uri: Uri = url.parse().map_err(|error| invalid(&error))?;
        let (Some(scheme @ ("http" | "https")), Some(host), Some(port)) =
            (uri.scheme_str(), uri.host(), uri.port_u16())
        else {
            return Err(invalid(&"not a URL with http or https and a port"));
        };
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_user || uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(invalid(&"it has a user, a path or a query, which no call would use"));
        }
        if endpoint.starts_with(DNS) {
            let (scheme, host) = (scheme.to_owned(), host.to_owned());
            return Ok(Self::Service(Service { name: endpoint.to_owned(), scheme, host, port }));
        }
        Ok(server(Server::new(endpoint, uri, None, options)))
    }

    /// Whether connections to it are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        match self {
            Self::Server(server) => server.is_encrypted(),
            Self::Service(service) => service.scheme == "https",
        }
    }

    /// Whether others in the network could read what is sent to it.
    pub(crate) fn is_exposed(&self) -> bool {
        let is_local = match self {
            Self::Server(server) => server.is_local(),
            Self::Service(_) => false,
        };
        !is_local && !self.is_encrypted()
    }
}

impl Service {
    /// The servers that the name stands for. If the name has addresses of both families, those of
    /// IPv4 are used, because both lead to the same servers.
    pub(crate) async fn servers(&self, options: &Options) -> Result<Vec<Server>, Cause> {
        let Self { name, scheme, host, port } = self;
        let failed = |why: String| Cause::Resolve { name: name.clone(), why };
        let within = options.timeouts.connect;
        let lookup = options.network.lookup(format!("{host}:{port}"));
        let found = tokio::time::timeout(within, lookup).await;
        let found = found
            .map_err(|_elapsed| failed(format!("the resolver did not answer within {within:?}")))?;
        let found = found.map_err(|error| failed(error.to_string()))?;
        let found: BTreeSet<_> = found.into_iter().collect();
        if found.is_empty() {
            return Err(failed("the name has no address".into()));
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
    use crate::wire::network::Network;

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

    #[test]
    fn parts_of_an_endpoint_that_no_call_would_use_are_refused() {
        let parsed = |endpoint| Target::parse(endpoint, &Options::new([endpoint]));
        for endpoint in ["a:1", "http://a:1", "http://a:1/", "dns+http://a:1"] {
            parsed(endpoint).unwrap();
        }
        for endpoint in
            ["http://a:1/b", "http://a:1?b", "http://user:secret@a:1", "dns+http://a:1/b"]
        {
            let error = parsed(endpoint).unwrap_err().to_string();
            assert!(error.contains("which no call would use"), "{error}");
        }
    }

    #[test]
    fn a_path_of_a_socket_is_an_endpoint() {
        let parsed = |endpoint: &str| Target::parse(endpoint, &Options::new([endpoint]));
        for endpoint in ["unix:/run/forebay.sock", "unix:///run/forebay.sock", "unix:forebay.sock"]
        {
            let Target::Server(server) = parsed(endpoint).unwrap() else { panic!("one server") };
            assert!(server.socket.unwrap().ends_with("forebay.sock"));
        }
        for endpoint in ["unix:", "unix://", &format!("unix:/{}", "x".repeat(107))] {
            let error = parsed(endpoint).unwrap_err().to_string();
            assert!(error.contains("expected unix:PATH"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_stands_for_one_server_per_address() {
        let two = &["10.0.0.2:50051", "10.0.0.1:50051", "10.0.0.2:50051", "[fd00::1]:50051"];
        let expected = ["http://10.0.0.1:50051", "http://10.0.0.2:50051"].map(str::to_owned);
        assert_eq!(names("dns+http://forebay:50051", two).await.unwrap(), expected);
        assert_eq!(names("dns+forebay:50051", two).await.unwrap(), expected);
        let of_v6 = names("dns+https://forebay:50051", &["[fd00::1]:50051"]).await;
        assert_eq!(of_v6.unwrap(), ["https://[fd00::1]:50051"]);
        let none = names("dns+http://forebay:50051", &[]).await.unwrap_err();
        assert_eq!(none, "cannot resolve dns+http://forebay:50051: the name has no address");
        let local = names("dns+http://forebay:50051", &["[fe80::1%2]:50051"]).await;
        assert_eq!(local.unwrap(), ["http://[fe80::1%2]:50051"]);
        assert_eq!(names("http://forebay:50051", &[]).await.unwrap_err(), "one server");
    }
}
