//! Which clients may use a share.

use std::net::IpAddr;

use ipnet::IpNet;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    None,
    Read,
    Write,
}

/// One line of a share's `clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRule {
    pub net: IpNet,
    pub access: Access,
}

/// A share's rules: the narrowest network that holds the client's address decides. Without any rule
/// every client may read and write; with rules, a client that none fits may do nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients(Vec<ClientRule>);

impl Clients {
    pub fn new(mut rules: Vec<ClientRule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.net.prefix_len()));
        Self(rules)
    }
    pub fn access(&self, client: IpAddr) -> Access {
        if self.0.is_empty() {
            return Access::Write;
        }
        // A v4 client of a v6 socket has an address that no v4 rule would fit.
        let client = client.to_canonical();
        let fits = self.0.iter().find(|rule| rule.net.contains(&client));
        fits.map_or(Access::None, |rule| rule.access)
    }
}
