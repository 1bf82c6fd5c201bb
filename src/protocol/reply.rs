//! What the server answers, as text.
