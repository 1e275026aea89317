//! The address that a request comes from, behind proxies too.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// An address, or all addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    bits: u8,
}

impl AddressRange {
    fn contains(self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, all: u8| {
            let rest = u32::from(all - self.bits);
            own.checked_shr(rest).unwrap_or(0) == other.checked_shr(rest).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an IP address or a range such as 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

/// Returns the address that counts for a request of `peer`, `None` if it is not known: a proxy of
/// this machine that is not configured, or a request of a proxy's own.
///
/// Each proxy appends its peer to `X-Forwarded-For`. The last address that is no proxy is the
/// client's; what stands before it is the client's claim.
pub(crate) fn client(
    peer: IpAddr,
    headers: &HeaderMap,
    proxies: &[AddressRange],
) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| proxies.iter().any(|range| range.contains(address));
    let peer = peer.to_canonical();
    if !is_proxy(peer) {
        return (!peer.is_loopback()).then(|| network(peer));
    }
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        for element in value.to_str().ok()?.rsplit(',') {
            let address = parse(element.trim())?.to_canonical();
            if !is_proxy(address) {
                return Some(network(address));
            }
        }
    }
    None
}

/// Parses an address, which some proxies write with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    text.trim_matches(['[', ']']).parse().ok().or_else(with_port)
}

/// Returns the address, of version 6 the first of its network of 64 bits: whoever has one has all.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(peer: &str, forwarded: &[&str], proxies: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        let proxies: Vec<_> = proxies.iter().map(|range| range.parse().unwrap()).collect();
        client(peer.parse().unwrap(), &headers, &proxies).map(|address| address.to_string())
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_the_client_whatever_it_claims() {
        assert_eq!(of("9.9.9.9", &["1.1.1.1"], &[]).as_deref(), Some("9.9.9.9"));
        assert_eq!(of("9.9.9.9", &["1.1.1.1"], &["10.0.0.0/8"]).as_deref(), Some("9.9.9.9"));
        assert_eq!(of("::ffff:9.9.9.9", &[], &[]).as_deref(), Some("9.9.9.9"));
        assert_eq!(of("2001:db8:1:2:3::4", &[], &[]).as_deref(), Some("2001:db8:1:2::"));
        assert_eq!(of("127.0.0.1", &["1.1.1.1"], &[]), None, "a proxy of this machine");
    }

    #[test]
    fn behind_proxies_the_last_address_that_is_none_of_them_counts() {
        let proxies = ["10.0.0.0/8", "::1"];
        let of = |forwarded: &[&str]| of("10.1.2.3", forwarded, &proxies);
        assert_eq!(of(&["6.6.6.6, 1.1.1.1"]).as_deref(), Some("1.1.1.1"), "not what it claims");
        assert_eq!(of(&["6.6.6.6", "1.1.1.1, 10.9.9.9"]).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&["1.1.1.1:4711"]).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&["[2001:db8::1]:4711"]).as_deref(), Some("2001:db8::"));
        for none in [&[][..], &["10.9.9.9, ::1"], &["unknown"], &["1.1.1.1, _hidden"], &[""]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_range_is_an_address_and_perhaps_bits() {
        for good in ["10.0.0.0/8", "10.0.0.1", "::1", "fd00::/8", "0.0.0.0/0", "::/0"] {
            let range: AddressRange = good.parse().unwrap();
            assert!(range.contains(range.address), "{good}");
        }
        let all: AddressRange = "::/0".parse().unwrap();
        assert!(all.contains("9::9".parse().unwrap()) && !all.contains("9.9.9.9".parse().unwrap()));
        for bad in ["", "10", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "host"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }
}
