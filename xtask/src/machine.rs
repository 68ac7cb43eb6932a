//! What the machine must offer, checked before an hour is lost.
