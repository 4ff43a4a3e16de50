//! A broker in memory, for tests of what runs on top of a queue. Nothing survives the process.
