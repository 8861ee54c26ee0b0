//! URIs of exports, as clients write them: `nbd://HOST[:PORT]/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`.

use std::path::PathBuf;

/// Port of a server that names none.
const PORT: u16 = 10809;

/// Where an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The server.
    pub server: Server,
    /// Name of the export; may be empty.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A Unix socket.
    Unix(PathBuf),
    /// Host name or address, and port.
    Tcp(String, u16),
}

impl Uri {
    /// Whether this is the URI of an export, or means to be one.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("nbd:") || text.starts_with("nbds:") || text.starts_with("nbd+") || text.starts_with("nbds+")
    }

    /// Reads a URI; otherwise says what is wrong with it.
    pub fn parse(text: &str) -> Result<Uri, String> {
        let wrong = |reason: &str| {
            format!("{text:?}: {reason}; write nbd+unix:///EXPORT?socket=/PATH or nbd://HOST:PORT/EXPORT")
        };
        if text.starts_with("nbds") {
            return Err(wrong("TLS is not spoken here"));
        }
        if let Some(rest) = text.strip_prefix("nbd+unix:///") {
            let (export, query) = rest.split_once('?').ok_or_else(|| wrong("names no socket"))?;
            let socket = query.split('&').find_map(|part| part.strip_prefix("socket="));
            let socket = socket.filter(|path| !path.is_empty()).ok_or_else(|| wrong("names no socket"))?;
            let decode = |part| decoded(part).ok_or_else(|| wrong("has a % without two hexadecimal digits behind it"));
            return Ok(Uri { server: Server::Unix(decode(socket)?.into()), export: decode(export)? });
        }
        let rest = text.strip_prefix("nbd://").ok_or_else(|| wrong("is not the URI of an export"))?;
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match server.rsplit_once(':') {
            // The colons inside an IPv6 address in brackets are none of a port.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("has a port that is not a number below 65536"))?)
            }
            _ => (server, PORT),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let export = decoded(export).ok_or_else(|| wrong("has a % without two hexadecimal digits behind it"))?;
        Ok(Uri { server: Server::Tcp(host.into(), port), export })
    }
}

/// Text in which bytes may be written as `%` and two hexadecimal digits.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Uri {
        Uri { server: Server::Tcp(host.into(), port), export: export.into() }
    }

    #[test]
    fn uris_are_read_as_documented() {
        let unix = |path: &str, export: &str| Uri { server: Server::Unix(path.into()), export: export.into() };
        for (text, uri) in [
            ("nbd+unix:///volume-1?socket=/run/a.sock", unix("/run/a.sock", "volume-1")),
            ("nbd+unix:///?socket=/run/a%20b", unix("/run/a b", "")),
            ("nbd+unix:///a%2Fb?x=1&socket=s", unix("s", "a/b")),
            ("nbd://localhost", tcp("localhost", 10809, "")),
            ("nbd://127.0.0.1:99/volume-1", tcp("127.0.0.1", 99, "volume-1")),
            ("nbd://[::1]:99/volume-1", tcp("::1", 99, "volume-1")),
            ("nbd://[::1]/volume-1", tcp("::1", 10809, "volume-1")),
        ] {
            assert_eq!(Uri::parse(text), Ok(uri), "{text}");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_with_a_reason() {
        for (text, word) in [
            ("nbd+unix:///volume-1", "no socket"),
            ("nbd+unix:///volume-1?socket=", "no socket"),
            ("nbd+unix:///v%4?socket=s", "%"),
            ("nbd+unix://host/volume-1?socket=s", "not the URI"),
            ("nbds://host/volume-1", "TLS"),
            ("nbd://host:port/volume-1", "port"),
            ("nbd:///volume-1", "no host"),
            ("http://host/", "not the URI"),
        ] {
            let error = Uri::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
