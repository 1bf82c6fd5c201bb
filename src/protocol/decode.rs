//! From the text of a message to an [`Envelope`](crate::protocol::envelope::Envelope) or a refusal.
