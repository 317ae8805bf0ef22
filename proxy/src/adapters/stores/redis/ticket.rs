//! The ticket of a lease to renew a session: the lease's number, and which value of the session it was given out for.

/// What a ticket says.
pub(super) struct Ticket {
    /// The lease's number, which the store has as its value.
    pub(super) number: u32,
    /// The last bytes of the session's sealed value when it was claimed. They are of its authentication tag: of four billion other values
    /// one has the same.
    pub(super) claimed: [u8; 4],
}

impl Ticket {
    /// The ticket of the lease `number` for a session with this sealed value.
    pub(super) fn of(number: u32, sealed: &[u8]) -> Self {
        Self { number, claimed: sealed.last_chunk().copied().unwrap_or_default() }
    }

    /// Reads a ticket from its number.
    pub(super) const fn read(ticket: u64) -> Self {
        let [a, b, c, d, claimed @ ..] = ticket.to_be_bytes();
        Self { number: u32::from_be_bytes([a, b, c, d]), claimed }
    }

    /// The ticket as one number.
    pub(super) fn written(&self) -> u64 {
        u64::from(self.number) << 32 | u64::from(u32::from_be_bytes(self.claimed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_reads_back() {
        let cases: [(u32, &[u8], [u8; 4]); 4] = [
            (0, b"", [0; 4]),
            (1, b"abc", [0; 4]),
            (u32::MAX, b"a sealed value", *b"alue"),
            (0x8000_0001, b"\xff\x00\x80\x01", [0xff, 0, 0x80, 1]),
        ];
        for (number, sealed, claimed) in cases {
            let ticket = Ticket::read(Ticket::of(number, sealed).written());
            assert_eq!((ticket.number, ticket.claimed), (number, claimed), "{sealed:?}");
        }
    }
}
